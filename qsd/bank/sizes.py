"""Exact sizes of configs."""

import numpy as np


def config_bytes(configs: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """Bytes of configs: codes, codebooks and scales of every layer.

    Args:
        configs: int8 [..., L], option index per layer.
        num_bytes: int64 [L, O], bytes of each option of each layer.

    Returns:
        int64 [...].
    """
    layers = np.arange(num_bytes.shape[0])
    return num_bytes[layers, configs.astype(np.int64)].sum(axis=-1, dtype=np.int64)


def average_bits(total_bytes: np.ndarray, num_weights: np.ndarray) -> np.ndarray:
    """Bits per weight, codebooks and scales included: 8 * bytes / number of weights, float64 [...]."""
    return 8.0 * np.asarray(total_bytes, dtype=np.float64) / float(num_weights.sum())
