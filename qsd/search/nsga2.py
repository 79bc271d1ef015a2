"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002) over int8 genomes: most quality, fewest bytes."""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from qsd.bank.sizes import config_bytes
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
    rank = np.empty(len(score), dtype=np.int64)
    best_of_front: list[float] = []  # negated, so rising
    previous = None
    for point in np.lexsort((-score, cost)):
        here = (float(score[point]), float(cost[point]))
        if here != previous:
            front = bisect_right(best_of_front, -here[0])
            best_of_front[front : front + 1] = [-here[0]]
            previous = here
        rank[point] = front
    return rank


def crowding_distance(score: np.ndarray, cost: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """How lonely each point is within its front: float64 [n], infinite at the two ends of a front."""
    distance = np.zeros(len(score))
    for front in range(int(rank.max(initial=-1)) + 1):
        members = np.flatnonzero(rank == front)
        for objective in (np.asarray(score, dtype=np.float64), np.asarray(cost, dtype=np.float64)):
            order = members[np.argsort(objective[members], kind="stable")]
            span = objective[order[-1]] - objective[order[0]]
            distance[order[[0, -1]]] = np.inf
            if span > 0 and len(order) > 2:
                distance[order[1:-1]] += (objective[order[2:]] - objective[order[:-2]]) / span
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
    genomes = np.unique(fit(seeds), axis=0)
    quality, cost = score(genomes), config_bytes(genomes, num_bytes)
    for generation in range(generations):
        kept = select_survivors(quality, cost, population)  # best first, so a lower index wins tournaments
        genomes, quality, cost = genomes[kept], quality[kept], cost[kept]
        children = fit(_offspring(genomes, num_bytes.shape[1], population, rng))
        merged = np.unique(np.concatenate([genomes, children]), axis=0)
        genomes, quality, cost = merged, score(merged), config_bytes(merged, num_bytes)
        if progress is not None:
            progress(generation + 1, generations, f"best predicted quality {quality.max():.4g}")
    return genomes[select_survivors(quality, cost, population)]


def _offspring(parents: np.ndarray, num_options: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Binary tournaments, uniform crossover and mutation of one gene on average, int8 [n, L].

    `parents` stand in order of fitness, so the smaller of two random indices is the tournament's winner.
    """
    num_layers = parents.shape[1]
    winners = rng.integers(len(parents), size=(2, n, 2)).min(axis=2)
    first, second = parents[winners[0]], parents[winners[1]]
    from_second = rng.random((n, num_layers)) < 0.5
    from_second &= rng.random((n, 1)) < CROSSOVER_PROBABILITY
    children = np.where(from_second, second, first)
    mutate = rng.random((n, num_layers)) < 1.0 / num_layers
    # Adding 1 to O - 1 modulo O draws uniformly among the other options.
    shift = rng.integers(1, max(num_options, 2), size=(n, num_layers))
    return np.where(mutate, (children + shift) % num_options, children).astype(np.int8)
