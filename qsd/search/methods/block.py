"""Qua²SeDiMo's block-level construction: each module takes its options of the best hop score."""

import numpy as np

from qsd.search.front import Front
from qsd.search.knapsack import solve_knapsack
from qsd.search.lagrangian import lagrangian_front
from qsd.search.space import Space
from qsd.search.task import Candidates, Task


def search(task: Task) -> Front:
    """Configs of the best summed scores of modules (Qua²SeDiMo, AAAI-25).

    As published every module takes its best combination, without a budget; that config is the front's last
    where the budget allows it. Under a budget one combination per module is chosen by an exact knapsack.
    """
    space = task.space
    kept = [_usable(module, space) for module in task.modules]
    widest = max(len(module.score) for module in kept)
    sizes = np.full((len(kept), widest), -1, dtype=np.int64)
    values = np.full((len(kept), widest), -np.inf)
    for row, module in enumerate(kept):
        sizes[row, : len(module.score)] = space.num_bytes[module.layers, module.options].sum(axis=1)
        values[row, : len(module.score)] = module.score
    hull = lagrangian_front(values, sizes)
    within = hull[sizes[np.arange(len(kept)), hull].sum(axis=1) <= task.budget.max_bytes]
    exact = solve_knapsack(values, sizes, task.budget.max_bytes)
    chosen = np.concatenate([within, exact[None, :]])
    units = np.zeros((len(chosen), len(space.num_bytes)), dtype=np.int8)
    for row, module in enumerate(kept):
        units[:, module.layers] = module.options[chosen[:, row]]
    evaluator = task.evaluator()
    evaluator(units)
    return task.front(evaluator, "block")


def _usable(module: Candidates, space: Space) -> Candidates:
    """By units: the combinations that are available, without those that a smaller one matches in score."""
    units, first = np.unique(space.unit_of_layer[module.layers], return_index=True)
    place = np.searchsorted(units, space.unit_of_layer[module.layers])
    options = module.options[:, first]
    fits = (options[:, place] == module.options).all(axis=1)  # coupled layers agree
    sizes = space.num_bytes[units, options]
    fits &= (sizes >= 0).all(axis=1)
    options, score, total = options[fits], module.score[fits], sizes[fits].sum(axis=1)
    order = np.lexsort((-score, total))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], score[order][:-1]]))
    order = order[score[order] > best_before]
    return Candidates(units, options[order], score[order])
