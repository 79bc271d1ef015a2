"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002) over int8 configs: most of every quality, fewest bytes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from qsd.search.kernels import children_of, crowding, dominance_ranks, fingerprints, ranks, sizes
from qsd.support.progress import Progress

CROSSOVER_PROBABILITY = 0.9


def non_dominated_rank(score: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The front that each point belongs to, 0 for the Pareto front, in O(n log n).

    A point dominates another when it is no worse in both and better in one. Points sorted by rising cost are
    dominated by earlier ones only, and the best score of each front so far falls from front to front, so the
    front of the next point is found by bisection.

    With several scores every pair is compared, in O(n^2).

    Args:
        score: float [n] or [n, K], larger is better.
        cost: int or float [n], smaller is better.

    Returns:
        int64 [n].
    """
    score, cost = np.asarray(score, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if score.ndim == 2:
        return dominance_ranks(np.column_stack([score, -cost]))
    return ranks(np.lexsort((-score, cost)), score, cost)


def crowding_distance(score: np.ndarray, cost: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """How lonely each point is within its front: float64 [n], infinite at the two ends of a front."""
    distance = np.zeros(len(score))
    for objective in np.column_stack([score, cost]).astype(np.float64).T:
        crowding(np.lexsort((objective, rank)), rank, objective, distance)
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
        score: Predicted quality of int8 [n, L] configs, float [n], or [n, K] of several; larger is better.
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
    quality, cost, keys = score(configs), sizes(configs, num_bytes), keys_of(configs)
    mutations = Mutations.make(num_bytes)
    for generation in range(generations):
        kept = select_survivors(quality, cost, population)  # best first, so a lower index wins tournaments
        configs, quality, cost = configs[kept], quality[kept], cost[kept]
        keys = [keys[index] for index in kept.tolist()]
        children, fresh = _unseen(fit(_offspring(configs, mutations, population, rng)), keys)
        keys += fresh
        configs = np.concatenate([configs, children])
        quality = np.concatenate([quality, score(children)])
        cost = np.concatenate([cost, sizes(children, num_bytes)])
        if progress is not None:
            best = ", ".join(f"{value:.4g}" for value in np.atleast_1d(quality.max(axis=0)))
            progress(generation + 1, generations, f"best predicted quality {best}")
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


def _unseen(children: np.ndarray, keys: list[bytes]) -> tuple[np.ndarray, list[bytes]]:
    """The distinct children that are none of those with these keys, in order, and their keys."""
    known = set(keys)
    fresh = {key: row for row, key in enumerate(keys_of(children)) if key not in known}
    return children[list(fresh.values())], list(fresh)


def keys_of(configs: np.ndarray) -> list[bytes]:
    """A key of 128 bits for each of int8 [n, U]; equal configs have equal keys."""
    configs = np.ascontiguousarray(configs)
    found = fingerprints(configs, _factors(configs.shape[1]))
    keys: list[bytes] = found.view("V16").ravel().tolist()
    return keys


@functools.lru_cache(maxsize=8)
def _factors(units: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2**64, size=(2, units), dtype=np.uint64) | np.uint64(1)


def _offspring(parents: np.ndarray, mutations: Mutations, n: int, rng: np.random.Generator) -> np.ndarray:
    """Binary tournaments, uniform crossover and mutation of one gene on average, int8 [n, U].

    `parents` stand in order of fitness, so the smaller of two random indices is the tournament's winner.
    """
    pairs = rng.integers(len(parents), size=(n, 2, 2)).min(axis=2)
    crossed = rng.random(n) < CROSSOVER_PROBABILITY
    seed = int(rng.integers(2**31))
    return children_of(parents, pairs, crossed, mutations.options, mutations.count, seed)
