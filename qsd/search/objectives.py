"""A front of several qualities and bytes: what no weighing of them has to decide beforehand."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from qsd.search.evaluator import Evaluator
from qsd.search.front import Front
from qsd.search.lagrangian import fit_additive
from qsd.search.methods.evolution import random_choices, seed_choices
from qsd.search.nsga2 import evolve, select_survivors
from qsd.search.posterior import PosteriorPredictor
from qsd.search.repair import Downgrades, repair
from qsd.search.task import OfUnits, Task
from qsd.support.errors import QsdError


class Objective(PosteriorPredictor, Protocol):
    """What is to be large, and how its values are told."""

    def values(self, configs: np.ndarray) -> np.ndarray:
        """Predicted values of int8 [n, L] configs in the user's unit, float64 [n]."""


def search_objectives(task: Task, objectives: Mapping[str, Objective]) -> Front:
    """NSGA-II over all objectives and bytes at once.

    The first population has, for every objective and for the sum of all in units of their deviation, the best
    sums over layers within the budget, and those of the task's further scores. Repairs give up the least of
    that sum per byte.

    Args:
        task: space, budget and settings; its predictor scores the members that are returned.
        objectives: by name, what predicts each; larger is better.

    Returns:
        Configs that no other one beats in all objectives and bytes, from small to large, thinned to
        `settings.max_members` by crowding distance; `Front.objectives` has their predicted values.

    Raises:
        QsdError: fewer than two objectives.
    """
    if len(objectives) < 2:
        raise QsdError("objectives: name at least two, such as fid,psnr")
    space, budget, settings = task.space, task.budget, task.settings
    rng = np.random.default_rng(task.seed)
    evaluators = [Evaluator(OfUnits(one, space), settings.confidence) for one in objectives.values()]

    def qualities(units: np.ndarray) -> np.ndarray:
        return np.column_stack([evaluator(units) for evaluator in evaluators])

    drawn = random_choices(space, settings.additive_samples, task.seed)
    scores = qualities(drawn)
    tables = [fit_additive(drawn, score, len(space.options)) for score in scores.T]
    deviation = np.maximum(scores.std(axis=0), 1e-12)
    together = np.sum([table / width for table, width in zip(tables, deviation, strict=True)], axis=0)
    together = np.where(space.available, together, -np.inf)
    downgrades = Downgrades.make(together, space.num_bytes)

    def fit(units: np.ndarray) -> np.ndarray:
        return repair(units, space.num_bytes, budget.max_bytes, downgrades, rng)

    starts = [np.where(space.available, table, -np.inf) for table in tables] + [together]
    starts += [space.by_unit(score) for score in task.further_scores]
    seeds = [seed_choices(values, space, budget, drawn[:0]) for values in starts]
    evolve(
        qualities,
        np.concatenate([*seeds, drawn[: settings.population]]),
        space.num_bytes,
        fit,
        rng,
        settings.population,
        settings.generations,
        task.progress,
    )
    units, _, _ = evaluators[0].archive()
    units = units[space.bytes_of(units) <= budget.max_bytes]
    kept = units[_front_of(qualities(units), space.bytes_of(units), settings.max_members)]
    kept = kept[np.argsort(space.bytes_of(kept), kind="stable")]
    return _as_front(task, objectives, kept, evaluators[0].count)


def _front_of(scores: np.ndarray, sizes: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` of the points that no smaller or equal one matches in all scores."""
    kept: list[int] = []
    for place in np.lexsort((-scores.sum(axis=1), sizes)).tolist():
        if not (scores[kept] >= scores[place]).all(axis=1).any():
            kept.append(place)
    members = np.array(kept, dtype=np.int64)
    return members[select_survivors(scores[members], sizes[members], most)]


def _as_front(task: Task, objectives: Mapping[str, Objective], units: np.ndarray, evaluations: int) -> Front:
    space = task.space
    evaluator = task.evaluator()
    evaluator(units)
    _, predicted, std = evaluator.archive()
    size, configs = space.bytes_of(units), space.expand(units)
    meta = task.meta_of("objectives", evaluations)
    return Front(
        configs=configs,
        predicted=predicted,
        std=std,
        num_bytes=size,
        avg_bits=space.bits_of(size),
        meta=replace(meta, settings=meta.settings | {"objectives": list(objectives)}),
        objectives={name: one.values(configs) for name, one in objectives.items()},
    )
