"""Shapley values of groups of layers (Shapley, "A value for n-person games", 1953)."""

import itertools
import math
from collections.abc import Callable

import numpy as np

EXACT = 10
"""With more groups than these, orders are sampled."""
_ORDERS = 64


def shapley_values(
    value: Callable[[np.ndarray], np.ndarray], players: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """How much each player adds, averaged over all orders in which they can come.

    Args:
        value: coalitions bool [n, players] -> their values float64 [n].
        players: how many.
        seed: of the sampled orders, each taken forwards and backwards.

    Returns:
        Values and their standard errors (0 where exact), each float64 [players].
    """
    return _exact(value, players) if players <= EXACT else _sampled(value, players, seed)


def of_squared_length(parts: np.ndarray) -> np.ndarray:
    """Shapley values, float64 [players], of the squared length of the sum of parts [players, d].

    The cross term of two parts is shared by halves, so a part's value is its product with the whole sum.
    """
    return parts @ parts.sum(axis=0)


def _exact(value: Callable[[np.ndarray], np.ndarray], players: int) -> tuple[np.ndarray, np.ndarray]:
    coalitions = np.array(list(itertools.product([False, True], repeat=players))).reshape(-1, players)
    values = value(coalitions)
    place = 1 << np.arange(players)[::-1]
    size = coalitions.sum(axis=1)
    found = np.zeros(players)
    for player in range(players):
        without = np.flatnonzero(~coalitions[:, player])
        share = [1 / (players * math.comb(players - 1, count)) for count in size[without].tolist()]
        found[player] = np.dot(share, values[without + place[player]] - values[without])
    return found, np.zeros(players)


def _sampled(
    value: Callable[[np.ndarray], np.ndarray], players: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    forwards = [rng.permutation(players) for _ in range(_ORDERS // 2)]
    added = np.zeros((len(forwards), players))
    for row, order in enumerate(forwards):
        for one in (order, order[::-1]):
            came = np.argsort(one)  # when each player comes
            values = value(came[None, :] < np.arange(players + 1)[:, None])
            added[row, one] += np.diff(values) / 2
    return added.mean(axis=0), added.std(axis=0, ddof=1) / math.sqrt(len(added))
