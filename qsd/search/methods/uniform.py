"""One option everywhere: what anybody does without searching."""

from qsd.search.front import Front
from qsd.search.task import Task


def search(task: Task) -> Front:
    """The uniform configs within the budget (where an option is not available, another of its size)."""
    evaluator = task.evaluator()
    evaluator(task.space.uniform())
    return task.front(evaluator, "uniform")
