"""Our search: seeds from the additive approximation, NSGA-II, then local improvement at the budget."""

import numpy as np

from qsd.configs.sampling import sample_configs
from qsd.search.budget import Budget
from qsd.search.front import Front
from qsd.search.improve import improve
from qsd.search.knapsack import solve_knapsack
from qsd.search.lagrangian import fit_additive, lagrangian_front
from qsd.search.nsga2 import evolve
from qsd.search.repair import Downgrades, repair
from qsd.search.space import Space
from qsd.search.task import Task
from qsd.support.progress import Progress

_STARTS = 3  # of the local improvement


def search(task: Task) -> Front:
    """Searches configs of high predicted quality and few bytes.

    Repairs use an additive approximation of the quality: the task's score, or one fitted to the predictor on
    random configs. Seeds are the best configs of that and of the task's further scores.
    """
    return evolved(task, "evolution")


def evolved(task: Task, method: str) -> Front:
    """The front that evolution finds, under a method's name."""
    space, budget, settings = task.space, task.budget, task.settings
    rng = np.random.default_rng(task.seed)
    evaluator = task.evaluator()
    options = len(space.options)
    random_units = random_choices(space, settings.additive_samples, task.seed)
    values = (
        np.where(space.available, fit_additive(random_units, evaluator(random_units), options), -np.inf)
        if task.score is None
        else task.values
    )
    downgrades = Downgrades.make(values, space.num_bytes)

    def fit(units: np.ndarray) -> np.ndarray:
        return repair(units, space.num_bytes, budget.max_bytes, downgrades, rng)

    steps = settings.generations + _STARTS * settings.improve_rounds
    seeds = [seed_choices(values, space, budget, random_units[: settings.population])]
    seeds += [
        seed_choices(space.by_unit(score), space, budget, random_units[:0]) for score in task.further_scores
    ]
    population = evolve(
        evaluator,
        np.concatenate(seeds),
        space.num_bytes,
        fit,
        rng,
        settings.population,
        settings.generations,
        _shifted(task.progress, 0, steps),
    )
    alone = np.stack([seed[0] for seed in seeds])
    best = population[np.argsort(-evaluator(population), kind="stable")[:1]]
    starts = np.unique(np.concatenate([best, alone]), axis=0)
    found = improve(
        evaluator,
        starts[np.argsort(-evaluator(starts), kind="stable")[:_STARTS]],
        space.num_bytes,
        budget.max_bytes,
        rng,
        settings.improve_rounds,
        _shifted(task.progress, settings.generations, steps),
    )
    if task.progress is not None:
        task.progress(steps, steps, f"best predicted quality {evaluator(found).max():.4g}")
    return task.front(evaluator, method)


def random_choices(space: Space, n: int, seed: int) -> np.ndarray:
    """Random choices by the law of random configs, int8 [n, U]."""
    return sample_configs(space.options, len(space.num_bytes), n, seed, available=space.available)


def seed_choices(values: np.ndarray, space: Space, budget: Budget, random_units: np.ndarray) -> np.ndarray:
    """The first population: the best additive choices, the exact one at the budget, uniform and random ones.

    Args:
        values: float [U, O].
        space: What may be chosen.
        budget: What the exact additive optimum is computed for.
        random_units: int8 [r, U].

    Returns:
        int8 [s, U]; some may exceed the budget.
    """
    hull = lagrangian_front(values, space.num_bytes)
    within = hull[space.bytes_of(hull) <= budget.max_bytes]
    exact = solve_knapsack(values, space.num_bytes, budget.max_bytes)
    return np.concatenate([exact[None, :], within, space.uniform(), random_units])


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Progress of one phase as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _, message: progress(start + done, total, message)
