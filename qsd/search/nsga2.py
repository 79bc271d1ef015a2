"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002) over int8 configs: most quality, fewest bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from qsd.search.kernels import children_of, ranks, sizes
from qsd.support.progress import Progress

CROSSOVER_PROBABILITY = 0.9


def non_dominated_rank(score: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The front that each point belongs to, 0 for the Pareto front, in O(n log n).

    A point dominates another when it is no worse in both and better in one. Points sorted by rising cost are
    dominated by earlier ones only, and the best score of each front so far falls from front to front, so the
    front of the next point is found by bisection.

    Args:
        score: float [n], larger is better.
        cost: int or float [n], smaller is better.

    Returns:
        int64 [n].
    """
    score, cost = np.asarray(score, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    return ranks(np.lexsort((-score, cost)), score, cost)


def crowding_distance(score: np.ndarray, cost: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """How lonely each point is within its front: float64 [n], infinite at the two ends of a front."""
    distance = np.zeros(len(score))
    for objective in (np.asarray(score, dtype=np.float64), np.asarray(cost, dtype=np.float64)):
        order = np.lexsort((objective, rank))
        fronts, values = rank[order], objective[order]
        first = np.append(True, fronts[1:] != fronts[:-1])
        last = np.append(first[1:], True)
        starts, ends = np.flatnonzero(first), np.flatnonzero(last)
        span = np.repeat(values[ends] - values[starts], ends - starts + 1)
        gap = np.zeros(len(score))
        gap[1:-1] = values[2:] - values[:-2]
        share = np.divide(gap, span, out=np.zeros_like(gap), where=span > 0)
        distance[order] += np.where(first | last, np.inf, share)
    return distance


def select_survivors(score: np.ndarray, cost: np.ndarray, size: int) -> np.ndarray:
    """Indices of the `size` best points by (front, crowding distance), best first."""
    rank = non_dominated_rank(score, cost)
    distance = crowding_distance(score, cost, rank)
    return np.lexsort((-distance, rank))[:size]


def evolve(
    score: Callable[[np.ndarray], np.ndarray],
    seeds: np.ndarray,
    num_bytes: np.ndarray,
    fit: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    population: int = 128,
    generations: int = 60,
    progress: Progress | None = None,
) -> np.ndarray:
    """Runs NSGA-II.

    Args:
        score: Predicted quality of int8 [n, L] configs, float [n], larger is better.
        seeds: int8 [s, L], the first population; the best survive when there are more than `population`.
        num_bytes: int64 [L, O].
        fit: Brings int8 [n, L] configs under the budget.
        rng: Where the randomness comes from.
        population: Configs per generation.
        generations: How many.
        progress: Called once per generation.

    Returns:
        int8 [<= population, L], the last population, distinct configs, best front first.
    """
    configs = np.unique(fit(seeds), axis=0)
    quality, cost = score(configs), sizes(configs, num_bytes)
    mutations = Mutations.make(num_bytes)
    for generation in range(generations):
        kept = select_survivors(quality, cost, population)  # best first, so a lower index wins tournaments
        configs, quality, cost = configs[kept], quality[kept], cost[kept]
        children = _unseen(fit(_offspring(configs, mutations, population, rng)), configs)
        configs = np.concatenate([configs, children])
        quality = np.concatenate([quality, score(children)])
        cost = np.concatenate([cost, sizes(children, num_bytes)])
        if progress is not None:
            progress(generation + 1, generations, f"best predicted quality {quality.max():.4g}")
    return configs[select_survivors(quality, cost, population)]


@dataclass(frozen=True)
class Mutations:
    """The options that each unit can take, so that a mutation is one look-up.

    Attributes:
        options: int8 [U, O], the available options first.
        count: int64 [U], how many these are.
    """

    options: np.ndarray
    count: np.ndarray

    @classmethod
    def make(cls, num_bytes: np.ndarray) -> Self:
        """From int64 [U, O] with -1 where an option is not available."""
        options = np.argsort(num_bytes < 0, axis=1, kind="stable").astype(np.int8)
        return cls(options, (num_bytes >= 0).sum(axis=1))


def _unseen(children: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """The distinct children that are no parents, in order."""
    known = set(_keys(parents))
    fresh = {key: row for row, key in enumerate(_keys(children)) if key not in known}
    return children[sorted(fresh.values())]


def _keys(configs: np.ndarray) -> list[bytes]:
    configs = np.ascontiguousarray(configs)
    return configs.view(f"V{configs.shape[1]}").ravel().tolist()


def _offspring(parents: np.ndarray, mutations: Mutations, n: int, rng: np.random.Generator) -> np.ndarray:
    """Binary tournaments, uniform crossover and mutation of one gene on average, int8 [n, U].

    `parents` stand in order of fitness, so the smaller of two random indices is the tournament's winner.
    """
    pairs = rng.integers(len(parents), size=(n, 2, 2)).min(axis=2)
    crossed = rng.random(n) < CROSSOVER_PROBABILITY
    seed = int(rng.integers(2**31))
    return children_of(parents, pairs, crossed, mutations.options, mutations.count, seed)
