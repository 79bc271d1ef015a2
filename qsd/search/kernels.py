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
        total[row] = _size(units[row], num_bytes)
    return total


@compiled
def _size(units: np.ndarray, num_bytes: np.ndarray) -> int:
    summed = 0
    for unit in range(len(units)):
        summed += num_bytes[unit, np.uint64(units[unit])]
    return summed


@compiled
def _next(state: np.uint64) -> np.uint64:
    """The next 64 random bits: xorshift (Marsaglia 2003); a state is never 0."""
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    return state ^ (state << np.uint64(17))


@compiled
def _below(state: np.uint64, count: np.uint64) -> np.int64:
    """A number below count from the upper bits of a state, without a division."""
    return np.int64(((state >> np.uint64(32)) * count) >> np.uint64(32))


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
    state = np.uint64(seed) * np.uint64(2) + np.uint64(1)
    num_units = np.uint64(units.shape[1])
    for row in range(len(units)):
        size = _size(units[row], num_bytes)
        draws = _TOURNAMENT if greedy[row] else 1
        while size > max_bytes:
            best, least = np.int64(-1), np.inf
            for _ in range(draws):
                state = _next(state)
                drawn = _below(state, num_units)
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
    state = np.uint64(seed) * np.uint64(2) + np.uint64(1)
    num_units = parents.shape[1]
    children = np.empty((len(pairs), num_units), dtype=np.int8)
    coins = np.empty((num_units + 7) // 8, dtype=np.uint64)
    tossed = coins.view(np.int8)  # one coin a byte: its sign
    for row in range(len(pairs)):
        child, one, other = children[row], parents[pairs[row, 0]], parents[pairs[row, 1]]
        if crossed[row]:
            for word in range(len(coins)):
                state = _next(state)
                coins[word] = state
            for unit in range(num_units):
                child[unit] = one[unit] if tossed[unit] < 0 else other[unit]
        else:
            child[:] = one
        while True:  # a geometric number of mutations, one on average
            state = _next(state)
            if state & np.uint64(1):
                break
            mutated = _below(state, np.uint64(num_units))
            state = _next(state)
            child[mutated] = options[mutated, _below(state, np.uint64(count[mutated]))]
    return children


@compiled
def fingerprints(units: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Two sums of int8 [n, U] choices times random factors uint64 [2, U] modulo 2**64, uint64 [n, 2].

    Multilinear hashing: two different rows agree in both sums with a probability of about 2**-120.
    """
    found = np.empty((len(units), 2), dtype=np.uint64)
    for row in range(len(units)):
        choices, one, other = units[row], np.uint64(0), np.uint64(0)
        for unit in range(len(choices)):
            choice = np.uint64(choices[unit])
            one += factors[0, unit] * choice
            other += factors[1, unit] * choice
        found[row, 0], found[row, 1] = one, other
    return found


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


@compiled
def crowding(order: np.ndarray, rank: np.ndarray, values: np.ndarray, distance: np.ndarray) -> None:
    """Adds one objective's share to crowding distances, float64 [n], in place (see `nsga2`).

    Args:
        order: int64 [n], points by front and, within a front, by the objective.
        rank: int64 [n], front of each point.
        values: float64 [n], the objective.
        distance: float64 [n].
    """
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and rank[order[last + 1]] == rank[order[first]]:
            last += 1
        span = values[order[last]] - values[order[first]]
        for place in range(first + 1, last):
            if span > 0:
                distance[order[place]] += (values[order[place + 1]] - values[order[place - 1]]) / span
        distance[order[first]] = np.inf
        distance[order[last]] = np.inf
        first = last + 1


@compiled
def _dominance(one: np.ndarray, other: np.ndarray) -> int:
    """1 if the one is nowhere smaller and somewhere larger, -1 the other way round, else 0."""
    ahead = behind = 0
    for kind in range(len(one)):
        if one[kind] > other[kind]:
            ahead = 1
        elif one[kind] < other[kind]:
            behind = 1
    return ahead - behind


@compiled
def dominance_ranks(values: np.ndarray) -> np.ndarray:
    """Fronts of points float64 [n, K], larger is better in all, int64 [n]: by peeling, O(K n^2)."""
    n = len(values)
    rank = np.full(n, -1, dtype=np.int64)
    dominators = np.zeros(n, dtype=np.int64)
    for one in range(n):
        for other in range(one + 1, n):
            found = _dominance(values[one], values[other])
            if found > 0:
                dominators[other] += 1
            elif found < 0:
                dominators[one] += 1
    front, left = 0, n
    while left:
        members = np.flatnonzero((dominators == 0) & (rank < 0))
        rank[members] = front
        left -= len(members)
        for beaten_by in members:
            for other in range(n):
                if rank[other] < 0 and _dominance(values[beaten_by], values[other]) > 0:
                    dominators[other] -= 1
        front += 1
    return rank
