"""Compiled inner loops of the evolution: sizes, repairs and ranks of whole populations."""

import numpy as np
from numba import njit

compiled = njit(nogil=True, cache=True)
_TOURNAMENT = 8  # layers among which a greedy repair takes the cheapest


@compiled
def sizes(units: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """Bytes of int8 [n, U] choices from int64 [U, O], int64 [n]."""
    total = np.zeros(len(units), dtype=np.int64)
    for row in range(len(units)):
        summed = 0
        for unit in range(units.shape[1]):
            summed += num_bytes[unit, units[row, unit]]
        total[row] = summed
    return total


@compiled
def repair_rows(
    units: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    target: np.ndarray,
    cost: np.ndarray,
    greedy: np.ndarray,
    seed: int,
) -> None:
    """Switches units of int8 [n, U] choices to smaller options, in place, until every row fits.

    A step draws units at random and switches the one of least cost among them: of eight in greedy rows, of
    one in others. A unit of infinite cost cannot shrink.
    """
    state = np.uint64(seed) * np.uint64(2) + np.uint64(1)  # xorshift (Marsaglia 2003); never 0
    num_units = np.uint64(units.shape[1])
    for row in range(len(units)):
        size = 0
        for unit in range(units.shape[1]):
            size += num_bytes[unit, units[row, unit]]
        draws = _TOURNAMENT if greedy[row] else 1
        while size > max_bytes:
            best, least = np.int64(-1), np.inf
            for _ in range(draws):
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                drawn = np.int64((state >> np.uint64(16)) % num_units)
                price = cost[drawn, units[row, drawn]]
                if price < least:
                    best, least = drawn, price
            if best < 0:
                continue
            before = units[row, best]
            after = target[best, before]
            size -= num_bytes[best, before] - num_bytes[best, after]
            units[row, best] = after


@compiled
def children_of(
    parents: np.ndarray,
    pairs: np.ndarray,
    crossed: np.ndarray,
    options: np.ndarray,
    count: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Uniform crossover of pairs of parents, and mutation of one unit on average, int8 [n, U].

    Args:
        parents: int8 [p, U].
        pairs: int64 [n, 2], positions of parents.
        crossed: bool [n], whether a child takes anything of the second.
        options: int8 [U, O], for each unit the available options first.
        count: int64 [U], how many these are.
        seed: of all coins.
    """
    state = np.uint64(seed) * np.uint64(2) + np.uint64(1)  # xorshift (Marsaglia 2003); never 0
    num_units = parents.shape[1]
    children = np.empty((len(pairs), num_units), dtype=np.int8)
    for row in range(len(pairs)):
        coins = np.uint64(0)
        for unit in range(num_units):
            if unit % 64 == 0:
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                coins = state if crossed[row] else np.uint64(0)
            parent = pairs[row, np.int64(coins & np.uint64(1))]
            children[row, unit] = parents[parent, unit]
            coins >>= np.uint64(1)
        while True:  # a geometric number of mutations, one on average
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            if (state >> np.uint64(40)) & np.uint64(1):
                break
            mutated = np.int64((state >> np.uint64(16)) % np.uint64(num_units))
            place = np.int64((state >> np.uint64(44)) % np.uint64(count[mutated]))
            children[row, mutated] = options[mutated, place]
    return children


@compiled
def ranks(order: np.ndarray, score: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Fronts of points visited in `order` of rising cost and falling score, int64 [n] (see `nsga2`)."""
    rank = np.empty(len(order), dtype=np.int64)
    best = np.empty(len(order))  # best score of each front so far; falls from front to front
    fronts = 0
    front = 0
    for place in range(len(order)):
        point = order[place]
        same = place > 0 and (
            score[point] == score[order[place - 1]] and cost[point] == cost[order[place - 1]]
        )
        if not same:
            low, high = 0, fronts
            while low < high:
                middle = (low + high) // 2
                if best[middle] >= score[point]:
                    low = middle + 1
                else:
                    high = middle
            front = low
            best[front] = score[point]
            fronts = max(fronts, front + 1)
        rank[point] = front
    return rank
