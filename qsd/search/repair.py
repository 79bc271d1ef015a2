"""Bringing configs back under the byte budget, by switching units to smaller options."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from qsd.search.kernels import repair_rows


@dataclass(frozen=True)
class Downgrades:
    """For every unit and option, the smaller option that loses the least additive quality per byte saved.

    Attributes:
        target: int8 [U, O], the option to switch to; the option itself where none is smaller.
        cost: float64 [U, O], additive quality lost per byte saved; infinite where none is smaller.
    """

    target: np.ndarray
    cost: np.ndarray

    @classmethod
    def make(cls, values: np.ndarray, num_bytes: np.ndarray) -> Self:
        """From additive values (float [U, O], larger is better) and bytes (int64 [U, O], -1: unavailable)."""
        available = num_bytes >= 0
        saved = (num_bytes[:, :, None] - num_bytes[:, None, :]).astype(np.float64)  # [U, from, to]
        possible = (saved > 0) & available[:, :, None] & available[:, None, :]
        with np.errstate(invalid="ignore"):
            lost = values[:, :, None] - values[:, None, :]
        ratio = np.where(possible, lost / np.where(possible, saved, 1.0), np.inf)
        target = ratio.argmin(axis=2)
        cost = ratio.min(axis=2)
        target = np.where(np.isfinite(cost), target, np.arange(num_bytes.shape[1]))
        return cls(target=target.astype(np.int8), cost=cost)


def repair(
    units: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    downgrades: Downgrades,
    rng: np.random.Generator,
) -> np.ndarray:
    """Switches units to smaller options until every config fits.

    Half of the configs, drawn at random, give up little additive quality per byte; the others give up random
    units, which keeps a population diverse and free of the additive approximation's mistakes.

    Args:
        units: int8 [n, U].
        num_bytes: int64 [U, O].
        max_bytes: A budget no smaller than the smallest config.
        downgrades: `Downgrades.make` of the additive values and `num_bytes`.
        rng: Where the randomness comes from.

    Returns:
        int8 [n, U], a copy; configs that fit come back as they were.
    """
    units = np.array(units, dtype=np.int8, order="C")
    greedy = rng.random(len(units)) < 0.5
    seed = int(rng.integers(2**31))
    repair_rows(units, num_bytes, max_bytes, downgrades.target, downgrades.cost, greedy, seed)
    return units
