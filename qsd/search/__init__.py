"""Search: from a predictor of quality to configs on a Pareto front, within a byte budget."""

from qsd.search.baselines import best_labeled, greedy_by_error, random_search
from qsd.search.budget import Budget, uniform_configs
from qsd.search.evaluator import Evaluator, Predictor, SpreadPredictor
from qsd.search.front import Front, FrontMeta
from qsd.search.knapsack import solve_knapsack
from qsd.search.lagrangian import fit_additive, greedy_fill, lagrangian_front
from qsd.search.nsga2 import crowding_distance, evolve, non_dominated_rank
from qsd.search.plot import Points, plot_front
from qsd.search.searching import SearchSettings, search
from qsd.support.callable_package import make_callable

__all__ = [
    "Budget",
    "Evaluator",
    "Front",
    "FrontMeta",
    "Points",
    "Predictor",
    "SearchSettings",
    "SpreadPredictor",
    "best_labeled",
    "crowding_distance",
    "evolve",
    "fit_additive",
    "greedy_by_error",
    "greedy_fill",
    "lagrangian_front",
    "non_dominated_rank",
    "plot_front",
    "random_search",
    "search",
    "solve_knapsack",
    "uniform_configs",
]

make_callable(__name__, "qsd.api", "search")
