"""Searchers behind one interface: a task in, a front of configs with exact bytes out. One file each."""

from typing import Literal

from qsd.search.methods import (
    block,
    evolution,
    greedy,
    knapsack,
    length,
    operation,
    orthogonality,
    random,
    uniform,
)
from qsd.search.task import Searcher

MethodName = Literal[
    "evolution", "operation", "block", "orthogonality", "length", "knapsack", "greedy", "uniform", "random"
]

METHODS: dict[MethodName, Searcher] = {
    "evolution": evolution.search,
    "operation": operation.search,
    "block": block.search,
    "orthogonality": orthogonality.search,
    "length": length.search,
    "knapsack": knapsack.search,
    "greedy": greedy.search,
    "uniform": uniform.search,
    "random": random.search,
}
"""By name."""
