"""Bringing configs back under the byte budget, by switching layers to smaller options."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from qsd.bank.sizes import config_bytes


@dataclass(frozen=True)
class Downgrades:
    """For every layer and option, the smaller option that loses the least additive quality per byte saved.

    Attributes:
        target: int8 [L, O], the option to switch to; the option itself where none is smaller.
        cost: float64 [L, O], additive quality lost per byte saved; infinite where none is smaller.
    """

    target: np.ndarray
    cost: np.ndarray

    @classmethod
    def make(cls, values: np.ndarray, num_bytes: np.ndarray) -> Self:
        """From additive values (float [L, O], larger is better) and bytes (int64 [L, O])."""
        saved = (num_bytes[:, :, None] - num_bytes[:, None, :]).astype(np.float64)  # [L, from, to]
        lost = values[:, :, None] - values[:, None, :]
        ratio = np.where(saved > 0, lost / np.where(saved > 0, saved, 1.0), np.inf)
        target = ratio.argmin(axis=2)
        cost = ratio.min(axis=2)
        target = np.where(np.isfinite(cost), target, np.arange(num_bytes.shape[1]))
        return cls(target=target.astype(np.int8), cost=cost)


def repair(
    configs: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    downgrades: Downgrades,
    rng: np.random.Generator,
) -> np.ndarray:
    """Switches layers to smaller options until every config fits.

    Half of the configs, drawn at random, give up the least additive quality per byte; the others give up
    random layers, which keeps a population diverse and free of the additive approximation's mistakes.

    Args:
        configs: int8 [n, L].
        num_bytes: int64 [L, O].
        max_bytes: A budget no smaller than the smallest config.
        downgrades: `Downgrades.make` of the additive values and `num_bytes`.
        rng: Where the randomness comes from.

    Returns:
        int8 [n, L], a copy; configs that fit come back as they were.
    """
    configs = configs.copy()
    layers = np.arange(configs.shape[1])
    greedy = rng.random(len(configs)) < 0.5
    over = np.flatnonzero(config_bytes(configs, num_bytes) > max_bytes)
    while len(over):
        cost = downgrades.cost[layers, configs[over]]
        random_cost = np.where(np.isfinite(cost), rng.random(cost.shape), np.inf)
        layer = np.where(greedy[over, None], cost, random_cost).argmin(axis=1)
        configs[over, layer] = downgrades.target[layer, configs[over, layer]]
        over = over[config_bytes(configs[over], num_bytes) > max_bytes]
    return configs
