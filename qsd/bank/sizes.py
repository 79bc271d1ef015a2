"""Exact sizes of configs."""

import numpy as np

from qsd.support.errors import QsdError


def config_bytes(configs: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """Bytes of configs: codes, codebooks and scales of every layer.

    Args:
        configs: int8 [..., L], option index per layer.
        num_bytes: int64 [L, O], bytes of each option of each layer, negative where a layer lacks an option.

    Returns:
        int64 [...].

    Raises:
        QsdError: a layer is at full precision, which is no option, or has an option that it cannot take.
    """
    chosen = num_bytes[np.arange(num_bytes.shape[0]), configs.astype(np.int64)]
    if configs.size and (configs.min() < 0 or chosen.min() < 0):
        layer = int(np.argwhere((configs < 0) | (chosen < 0))[0][-1])
        raise QsdError(
            f"config: layer {layer} (in bank order) has no option or one that it cannot take, so the config "
            "has no size; give it an available option (`keep` stores 16 bits)"
        )
    return chosen.sum(axis=-1, dtype=np.int64)


def largest_bytes(num_bytes: np.ndarray) -> int:
    """Bytes of the largest config of int64 [L, O], negative where a layer lacks an option."""
    return int(num_bytes.max(axis=1).sum())


def smallest_bytes(num_bytes: np.ndarray) -> int:
    """Bytes of the smallest config of int64 [L, O], negative where a layer lacks an option."""
    return int(np.where(num_bytes < 0, np.iinfo(np.int64).max, num_bytes).min(axis=1).sum())


def uniform_configs(num_bytes: np.ndarray, num_weights: np.ndarray) -> np.ndarray:
    """The configs that use one option wherever it is available.

    A layer that lacks the option takes the smallest of its own that has at least as many bits per weight as
    the option has on average; failing that, its largest.

    Args:
        num_bytes: int64 [L, O], negative where a layer lacks an option.
        num_weights: int64 [L].

    Returns:
        int8 [O, L].
    """
    available = num_bytes >= 0
    counts = np.maximum((available * num_weights[:, None]).sum(axis=0), 1)
    wanted = np.where(available, num_bytes, 0).sum(axis=0) / counts
    own = np.where(available, num_bytes / num_weights[:, None], np.nan)
    configs = np.empty(num_bytes.shape[::-1], np.int8)
    for option, size in enumerate(wanted):
        enough = np.where(own >= size, own, np.inf)
        other = np.where(np.isfinite(enough).any(axis=1), enough.argmin(axis=1), np.nanargmax(own, axis=1))
        configs[option] = np.where(available[:, option], option, other)
    return configs


def average_bits(total_bytes: np.ndarray, num_weights: np.ndarray) -> np.ndarray:
    """Bits per weight, codebooks and scales included: 8 * bytes / number of weights, float64 [...]."""
    return 8.0 * np.asarray(total_bytes, dtype=np.float64) / float(num_weights.sum())
