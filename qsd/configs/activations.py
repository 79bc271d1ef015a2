"""Activation vectors beside configs: random draws, and their entry in config documents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsd.configs.document import layers_from_json
from qsd.quantizers.activations import ActivationOption
from qsd.support.errors import QsdError

_STREAM = 1  # beside that of the weights, which has no such number


def full_activations(options: Sequence[ActivationOption], num_layers: int) -> np.ndarray:
    """The vector that leaves every input as it is, int8 [L].

    Raises:
        QsdError: the table lacks 16.
    """
    full = next((index for index, option in enumerate(options) if option.is_full), None)
    if full is None:
        raise QsdError(
            f"activation options {', '.join(map(str, options))}: lack 16 (full precision); add it"
            " to the table"
        )
    return np.full(num_layers, full, dtype=np.int8)


def sample_activations(
    options: Sequence[ActivationOption], num_layers: int, n: int, seed: int, start: int = 0
) -> np.ndarray:
    """Draws the activation vectors of configs ``start`` to ``start + n - 1`` of a seed's endless sequence.

    The law is that of the weights (:func:`qsd.configs.sampling.sample_config`): the share of few bits is
    drawn once per config, the option is uniform among those of equal bits. Vector i depends on (seed, i)
    only, and on numbers that the weights of config i do not use.

    Args:
        options: A activation options.
        num_layers: L.
        n: number of vectors.
        seed: names the sequence.
        start: index of the first.

    Returns:
        int8 [n, L].
    """
    bits = np.array([option.bits for option in options])
    widths = np.unique(bits)
    drawn = np.empty((n, num_layers), dtype=np.int8)
    for row in range(n):
        rng = np.random.default_rng([seed, start + row, _STREAM])
        width = widths[rng.binomial(len(widths) - 1, 1.0 - rng.random(), size=num_layers)]
        likes = np.where(bits == width[:, None], rng.random((num_layers, len(bits))), -1.0)
        drawn[row] = likes.argmax(axis=1)
    return drawn


def activations_from_json(
    document: Mapping[str, Any],
    layer_names: Sequence[str],
    options: Sequence[ActivationOption],
    source: str | Path,
) -> np.ndarray:
    """The activation vector of a config document, int8 [L]; one without it means 16 everywhere.

    Raises:
        QsdError: activation options of another layer set, or not in the table.
    """
    layers = document.get("activations")
    if layers is None:
        return full_activations(options, len(layer_names))
    return layers_from_json(layers, layer_names, [str(option) for option in options], source)
