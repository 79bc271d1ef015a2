"""Exact over any score that adds up over layers: relative errors, a ridge regression, probed energies."""

import numpy as np

from qsd.search.front import Front
from qsd.search.knapsack import solve_knapsack
from qsd.search.lagrangian import lagrangian_front
from qsd.search.task import Task


def search(task: Task) -> Front:
    """The configs of largest additive score: exact at the budget, and on the convex hull below it."""
    return of_score(task, "knapsack")


def of_score(task: Task, method: str) -> Front:
    """The front of the best additive configs, under a method's name."""
    space, values = task.space, task.values
    hull = lagrangian_front(values, space.num_bytes)
    within = hull[space.bytes_of(hull) <= task.budget.max_bytes]
    exact = solve_knapsack(values, space.num_bytes, task.budget.max_bytes)
    evaluator = task.evaluator()
    evaluator(np.concatenate([within, exact[None, :]]))
    return task.front(evaluator, method)
