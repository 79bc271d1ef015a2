"""Random configs, brought under the budget: what a search must beat with the same number of predictions."""

import numpy as np

from qsd.search.front import Front
from qsd.search.lagrangian import fit_additive
from qsd.search.methods.evolution import random_choices
from qsd.search.repair import Downgrades, repair
from qsd.search.task import Task


def search(task: Task) -> Front:
    """The best of `settings.additive_samples` random configs, repaired as the evolution repairs."""
    space = task.space
    evaluator = task.evaluator()
    units = random_choices(space, task.settings.additive_samples, task.seed)
    fitted = units[: max(len(units) // 10, 2)]
    values = fit_additive(fitted, evaluator(fitted), len(space.options))
    downgrades = Downgrades.make(np.where(space.available, values, -np.inf), space.num_bytes)
    rng = np.random.default_rng(task.seed)
    evaluator(repair(units, space.num_bytes, task.budget.max_bytes, downgrades, rng))
    return task.front(evaluator, "random")
