"""The exact additive optimum within a byte budget: a multiple-choice knapsack.

At the multiplier where the Lagrangian front crosses the budget, every option has a regret: what it loses
against the layer's favourite. The loss of a config against the linear-programming bound is its summed regret
plus the price of the bytes left over, so all options of more regret than the loss of a known config drop out.
What remains is solved by dynamic programming over non-dominated (bytes, value) pairs (Nemhauser and Ullmann
1969; the reduction after Sinha and Zoltners 1979). Sizes stay integers throughout.
"""

import numpy as np

from qsd.bank.sizes import config_bytes
from qsd.search.lagrangian import greedy_fill, lagrangian_front

_SLACK = 1 + 1e-12  # rounding must not drop the config that set the bound


def solve_knapsack(values: np.ndarray, num_bytes: np.ndarray, max_bytes: int) -> np.ndarray:
    """The config of largest additive quality within a byte budget.

    Args:
        values: float [L, O], larger is better.
        num_bytes: int64 [L, O], -1 where an option is not available.
        max_bytes: The budget, never exceeded.

    Returns:
        int8 [L].

    Raises:
        QsdError: No config fits.
    """
    known = greedy_fill(values, num_bytes, max_bytes)
    price = _price_at(values, num_bytes, max_bytes)
    if price is None:
        return known
    reduced = np.where(num_bytes >= 0, values - price * num_bytes, -np.inf)
    regret = reduced.max(axis=1, keepdims=True) - reduced
    layers = np.arange(len(values))
    room = int(max_bytes) - int(config_bytes(known, num_bytes))
    bound = float(regret[layers, known].sum()) + price * room
    favourite = regret.argmin(axis=1)
    extra = num_bytes - num_bytes[layers, favourite][:, None]
    free = np.flatnonzero((regret <= bound * _SLACK).sum(axis=1) > 1)
    free = free[np.argsort(np.partition(regret[free], 1, axis=1)[:, 1], kind="stable")]
    room = int(max_bytes) - int(num_bytes[layers, favourite].sum())
    choices = _solve_core(regret[free], extra[free], room, price, bound)
    if choices is None:
        return known
    config = favourite.astype(np.int8)
    config[free] = choices
    return config


def _price_at(values: np.ndarray, num_bytes: np.ndarray, max_bytes: int) -> float | None:
    """Quality per byte where the Lagrangian front crosses the budget; None where all of it fits."""
    front = lagrangian_front(values, num_bytes)
    size = config_bytes(front, num_bytes)
    over = int(np.searchsorted(size, max_bytes, side="right"))
    if over == len(front):
        return None
    quality = values[np.arange(len(values)), front[over - 1 : over + 1]].sum(axis=1)
    return float(quality[1] - quality[0]) / float(size[over] - size[over - 1])


def _solve_core(
    regret: np.ndarray, extra: np.ndarray, room: int, price: float, bound: float
) -> np.ndarray | None:
    """Options of the free layers with the least summed regret + price * bytes left over.

    Args:
        regret: float [F, O], zero for each layer's favourite.
        extra: int64 [F, O], bytes more than the favourite, negative for fewer.
        room: Bytes left when all layers take their favourite, negative when those do not fit.
        price: Quality per byte.
        bound: A loss that some config is known to reach.

    Returns:
        int8 [F], or None when nothing reaches the bound.
    """
    allowed = [np.flatnonzero(row <= bound * _SLACK) for row in regret]
    least = np.array([row[some].min() for row, some in zip(extra, allowed, strict=True)], dtype=np.int64)
    still_saved = np.append(np.cumsum(least[::-1])[::-1], 0)  # by the layers from here on
    size, loss = np.zeros(1, dtype=np.int64), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    for layer, options in enumerate(allowed):
        parent = np.repeat(np.arange(len(size)), len(options))
        option = np.tile(options, len(size))
        size, loss = size[parent] + extra[layer, option], loss[parent] + regret[layer, option]
        complete = size <= room  # with the favourites of the layers to come
        bound = min(bound, float((loss + price * (room - size))[complete].min(initial=np.inf)))
        keep = np.flatnonzero((loss <= bound * _SLACK) & (size + still_saved[layer + 1] <= room))
        keep = keep[_non_dominated(size[keep], price * size[keep] - loss[keep])]
        size, loss = size[keep], loss[keep]
        trail.append((parent[keep], option[keep]))
    if not len(size):
        return None
    state = int(np.argmin(loss + price * (room - size)))
    choices = np.empty(len(allowed), dtype=np.int8)
    for layer in range(len(allowed) - 1, -1, -1):
        parents, options = trail[layer]
        choices[layer], state = options[state], int(parents[state])
    return choices


def _non_dominated(size: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices of the states that no smaller or equal one matches in value, smallest first."""
    order = np.lexsort((-value, size))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], value[order][:-1]]))
    return order[value[order] > best_before]
