"""Local improvement: from good configs upwards, by what every single switch brings there."""

from collections.abc import Callable, Iterator

import numpy as np

from qsd.bank.sizes import config_bytes
from qsd.search.knapsack import solve_knapsack
from qsd.search.repair import Downgrades, repair
from qsd.support.progress import Progress

PATIENCE = 3
_SWITCHES = 1024  # predicted anew in a round
_EVALUATIONS = 80_000  # for all climbs together
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the units that a step takes from the additive optimum
_STEPS = 16  # of each share
_UPWARDS, _DOWNWARDS, _PAIRS = 64, 64, 256

Score = Callable[[np.ndarray], np.ndarray]


def improve(
    score: Score,
    starts: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    rng: np.random.Generator,
    rounds: int = 40,
    progress: Progress | None = None,
) -> np.ndarray:
    """Climbs from each start towards the best quality at the budget.

    A round predicts switches of single units of the config it stands at (all of them, or in large spaces a
    part anew), and from these gains proposes: the additive optimum within the budget, steps of all lengths
    towards it, and the best pairs of a switch that improves and one that pays for it. It goes to the best of
    what is really predicted better. A climb ends when several rounds bring nothing, or after ``rounds``.

    Args:
        score: Predicted quality of int8 [n, U] configs, float [n], larger is better.
        starts: int8 [s, U], configs within the budget.
        num_bytes: int64 [U, O], -1 where an option is not available.
        max_bytes: The budget, never exceeded.
        rng: Where the randomness comes from.
        rounds: At most so many for each start.
        progress: Called once per round.

    Returns:
        int8 [s, U], the best found from each start.
    """
    found, spent = [], 0
    for position, start in enumerate(starts):
        best, quality, stale = start.astype(np.int8), float(score(start[None])[0]), 0
        gains = np.full(num_bytes.shape, np.nan)
        for done in range(rounds):
            if stale == PATIENCE or spent > _EVALUATIONS:
                break
            spent += _refresh(gains, score, best, quality, num_bytes, rng)
            proposals = np.concatenate(list(_proposals(best, gains, num_bytes, max_bytes, rng)))
            fitting = repair(proposals, num_bytes, max_bytes, Downgrades.make(gains, num_bytes), rng)
            predicted = score(fitting)
            spent += len(fitting)
            chosen = int(predicted.argmax())
            stale = stale + 1 if predicted[chosen] <= quality else 0
            if not stale:
                best, quality = fitting[chosen], float(predicted[chosen])
                gains -= gains[np.arange(len(best)), best][:, None]
            if progress is not None:
                message = f"best predicted quality {quality:.4g}"
                progress(position * rounds + done + 1, len(starts) * rounds, message)
        found.append(best)
    return np.stack(found)


def _refresh(
    gains: np.ndarray,
    score: Score,
    config: np.ndarray,
    quality: float,
    num_bytes: np.ndarray,
    rng: np.random.Generator,
) -> int:
    """Predicts what switches of single units gain, in place; returns how many were predicted."""
    units, options = num_bytes.shape
    known = not np.isnan(gains).any()
    chosen = rng.permutation(units)[: max(1, _SWITCHES // options)] if known else np.arange(units)
    unit, option = np.nonzero(num_bytes[chosen] >= 0)
    unit = chosen[unit]
    switched = np.repeat(config[None, :], len(unit), axis=0)
    switched[np.arange(len(unit)), unit] = option
    gains[chosen] = -np.inf
    gains[unit, option] = score(switched) - quality
    return len(unit)


def _proposals(
    config: np.ndarray,
    gains: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Neighbours near and far, int8 [n, U]; some may exceed the budget."""
    optimum = solve_knapsack(gains, num_bytes, max_bytes)
    yield optimum[None, :]
    for share in _SHARES:
        taken = rng.random((_STEPS, len(config))) < share
        yield np.where(taken, optimum, config).astype(np.int8)
    yield _pairs(config, gains, num_bytes, max_bytes)


def _pairs(config: np.ndarray, gains: np.ndarray, num_bytes: np.ndarray, max_bytes: int) -> np.ndarray:
    """The best pairs of a switch that gains and one that frees bytes, and the gains that fit alone."""
    units, options = gains.shape
    extra = (num_bytes - num_bytes[np.arange(units), config][:, None]).ravel()
    gain = gains.ravel()
    room = max_bytes - int(config_bytes(config[None, :], num_bytes)[0])
    upwards = np.argsort(-gain, kind="stable")[:_UPWARDS]
    upwards = upwards[gain[upwards] > 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where((extra < 0) & np.isfinite(gain), gain / -extra, -np.inf)
    downwards = np.argsort(-price, kind="stable")[:_DOWNWARDS]
    downwards = downwards[np.isfinite(price[downwards])]
    together = gain[upwards][:, None] + gain[downwards]
    fits = extra[upwards][:, None] + extra[downwards] <= room
    apart = (upwards // options)[:, None] != downwards // options
    order = np.argsort(-np.where(fits & apart, together, -np.inf), axis=None, kind="stable")[:_PAIRS]
    order = order[(fits & apart).ravel()[order]]
    first, second = upwards[order // max(1, len(downwards))], downwards[order % max(1, len(downwards))]
    alone = upwards[extra[upwards] <= room]
    switched = np.repeat(config[None, :], len(order) + len(alone), axis=0)
    rows = np.arange(len(order))
    switched[rows, first // options] = first % options
    switched[rows, second // options] = second % options
    rest = np.arange(len(order), len(switched))
    switched[rest, alone // options] = alone % options
    return switched
