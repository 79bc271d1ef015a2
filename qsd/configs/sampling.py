"""Random configs: the law that labels are drawn from, and that searches start from."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize

from qsd.quantizers.options import Option

_MEAN_WIDTHS = (2.5, 5.0)


def sample_config(
    options: Sequence[Option],
    num_layers: int,
    rng: np.random.Generator,
    available: np.ndarray | None = None,
) -> np.ndarray:
    """Draws one random config.

    One mean width m is drawn per config, uniform from 2.5 to 5 bits as far as the table reaches: below,
    images are lost, and above, all configs draw like full precision. With K distinct widths in the table,
    each layer's width is the j-th smallest, j ~ Binomial(K - 1, q), q such that the expected width is m: with
    widths 3 and 4 a layer has 4 bits with probability q ~ U(0, 1). The method is uniform among the options of
    that width. Drawing m once per config spreads the average bits of configs, which independent layers would
    not (Qua²SeDiMo, AAAI-25). A layer without an option of that width takes one of the nearest width that it
    has, the smaller of two.

    Args:
        options: The option table, O entries.
        num_layers: L.
        rng: Where the randomness comes from.
        available: bool [L, O], the options that each layer can take; None for all.

    Returns:
        int8 [L], option index per layer.
    """
    bits = np.array([option.traits.bits for option in options])
    widths = np.unique(bits)
    width_of_layer = widths[rng.binomial(len(widths) - 1, _chance(widths, rng.random()), size=num_layers)]
    away = np.abs(bits[None, :] - width_of_layer[:, None]) + 1e-6 * bits[None, :]
    if available is not None:
        away = np.where(available, away, np.inf)
    candidates = away == away.min(axis=1, keepdims=True)
    return np.where(candidates, rng.random((num_layers, len(bits))), -1.0).argmax(axis=1).astype(np.int8)


def _chance(widths: np.ndarray, uniform: float) -> float:
    """The q at which widths[j], j ~ Binomial(K - 1, q), has the mean that a number from [0, 1) stands for."""
    if len(widths) == 1:
        return 0.0
    low, high = (min(max(end, widths[0]), widths[-1]) for end in _MEAN_WIDTHS)
    if low == high:
        low, high = widths[0], widths[-1]
    mean = low + (high - low) * (1.0 - uniform)
    tries = len(widths) - 1
    j = np.arange(len(widths))
    ways = np.array([math.comb(tries, k) for k in j])

    def excess(q: float) -> float:
        return float((ways * q**j * (1.0 - q) ** (tries - j)) @ widths - mean)

    return float(scipy.optimize.brentq(excess, 0.0, 1.0))


def sample_configs(
    options: Sequence[Option],
    num_layers: int,
    n: int,
    seed: int,
    start: int = 0,
    available: np.ndarray | None = None,
) -> np.ndarray:
    """Draws configs `start` to `start + n - 1` of the endless sequence that belongs to a seed.

    Config i depends on (seed, i) only, so a labeling job can be resumed, grown and split.

    Args:
        options: The option table.
        num_layers: L.
        n: Number of configs.
        seed: Names the sequence.
        start: Index of the first config.
        available: bool [L, O], the options that each layer can take; None for all.

    Returns:
        int8 [n, L].
    """
    configs = np.empty((n, num_layers), dtype=np.int8)
    for row, index in enumerate(range(start, start + n)):
        configs[row] = sample_config(options, num_layers, np.random.default_rng([seed, index]), available)
    return configs
