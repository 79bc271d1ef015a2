"""Qua²SeDiMo's operation-level construction: each layer takes the option of the best hop score."""

from qsd.search.front import Front
from qsd.search.methods.knapsack import of_score
from qsd.search.task import Task


def search(task: Task) -> Front:
    """Configs of the best summed hop-0 scores (Qua²SeDiMo, AAAI-25).

    As published there is no budget: every layer takes its best option, and the weight of `avg_bits` in the
    ranker's target is the control; that config is the front's last where the budget allows it. Under a budget
    the choice is the exact knapsack of the same scores.
    """
    return of_score(task, "operation")
