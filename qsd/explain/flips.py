"""What changing one layer alone does to a score."""

import numpy as np

from qsd.bank import FULL_PRECISION
from qsd.explain.score import Score


def reference_config(score: Score, num_bytes: np.ndarray) -> np.ndarray:
    """What layers are compared with: full precision, or each layer's largest option, int8 [L].

    Args:
        score: whether it knows full precision.
        num_bytes: int64 [L, O], -1 where a layer cannot take an option.
    """
    if score.restorable:
        return np.full(len(num_bytes), FULL_PRECISION, dtype=np.int8)
    return num_bytes.argmax(axis=1).astype(np.int8)


def costs_around(score: Score, config: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """By how much the score falls when one layer of a config goes from its reference to an option.

    Args:
        score: of configs.
        config: int8 [L], what all other layers have.
        num_bytes: int64 [L, O], -1 where a layer cannot take an option.

    Returns:
        float64 [L, O], NaN where a layer cannot take an option.
    """
    reference = reference_config(score, num_bytes)
    flips = score(_flipped(config, num_bytes))
    restored = np.repeat(config[None], len(config), axis=0)
    np.fill_diagonal(restored, reference)
    costs = np.full(num_bytes.shape, np.nan)
    costs[num_bytes >= 0] = flips
    return score(restored)[:, None] - costs


def costs_alone(score: Score, num_bytes: np.ndarray) -> np.ndarray:
    """The same while all other layers are at their reference.

    At full precision everywhere a logarithm of the change has no value, so a score that is no squared length
    is compared with the gentlest flip of all: the smallest cost is 0.

    Returns:
        float64 [L, O], NaN where a layer cannot take an option.
    """
    reference = reference_config(score, num_bytes)
    flips = score(_flipped(reference, num_bytes))
    at_reference = flips.max() if score.restorable and score.change is None else score(reference[None])[0]
    costs = np.full(num_bytes.shape, np.nan)
    costs[num_bytes >= 0] = at_reference - flips
    return costs


def _flipped(config: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """The config with one layer set to one of its options, int8 [flips, L], in the order of ``nonzero``."""
    layers, options = np.nonzero(num_bytes >= 0)
    configs = np.repeat(config[None], len(layers), axis=0)
    configs[np.arange(len(layers)), layers] = options
    return configs
