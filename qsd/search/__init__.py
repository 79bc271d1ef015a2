"""Search: from what is known of configs to configs on a Pareto front, within a byte budget."""

from qsd.search.budget import Budget
from qsd.search.evaluator import Evaluator
from qsd.search.front import Front, FrontMeta
from qsd.search.knapsack import solve_knapsack
from qsd.search.lagrangian import fit_additive, greedy_fill, lagrangian_front
from qsd.search.methods import METHODS, MethodName
from qsd.search.nsga2 import crowding_distance, evolve, non_dominated_rank
from qsd.search.plot import Points, plot_front
from qsd.search.posterior import Posterior, PosteriorPredictor, Predictor
from qsd.search.space import Space
from qsd.search.task import Candidates, SearchSettings, Task
from qsd.support.callable_package import make_callable

__all__ = [
    "METHODS",
    "Budget",
    "Candidates",
    "Evaluator",
    "Front",
    "FrontMeta",
    "MethodName",
    "Points",
    "Posterior",
    "PosteriorPredictor",
    "Predictor",
    "SearchSettings",
    "Space",
    "Task",
    "crowding_distance",
    "evolve",
    "fit_additive",
    "greedy_fill",
    "lagrangian_front",
    "non_dominated_rank",
    "plot_front",
    "solve_knapsack",
]

make_callable(__name__, "qsd.api", "search")
