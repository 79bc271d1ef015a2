"""Activation vectors beside configs: random draws, and their entry in config documents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsd.configs.document import layers_from_json, load_document
from qsd.quantizers.activations import ActivationOption
from qsd.support.errors import QsdError

_STREAM = 1  # beside that of the weights, which has no such number


def uniform_activations(
    options: Sequence[ActivationOption], macs: np.ndarray, option: ActivationOption | str
) -> np.ndarray:
    """One option for every layer whose input can be rounded, int8 [L].

    Args:
        options: A activation options.
        macs: int64 [L], multiply-accumulates; where they are 0 beside others the input stays as it is.
        option: the one.

    Raises:
        QsdError: the table lacks it.
    """
    wanted = ActivationOption.parse(option) if isinstance(option, str) else option
    if wanted not in options:
        raise QsdError(f"no activation option {wanted}; the table has {', '.join(map(str, options))}")
    vector = np.full(len(macs), list(options).index(wanted), dtype=np.int8)
    return np.where(can_round(macs), vector, 0).astype(np.int8)


def can_round(macs: np.ndarray) -> np.ndarray:
    """Layers whose input can be rounded, bool [L]: those that are called; all where nothing was counted."""
    return (macs > 0) | ~macs.any()


def sample_activations(
    options: Sequence[ActivationOption], macs: np.ndarray, n: int, seed: int, start: int = 0
) -> np.ndarray:
    """Draws the activation vectors of configs ``start`` to ``start + n - 1`` of a seed's endless sequence.

    The law is that of the weights (:func:`qsd.configs.sampling.sample_config`): the share of few bits is
    drawn once per config, the option is uniform among those of equal bits. Vector i depends on (seed, i)
    only, and on numbers that the weights of config i do not use.

    Args:
        options: A activation options.
        macs: int64 [L], see :func:`uniform_activations`.
        n: number of vectors.
        seed: names the sequence.
        start: index of the first.

    Returns:
        int8 [n, L].
    """
    bits = np.array([option.bits for option in options])
    widths = np.unique(bits)
    num_layers = len(macs)
    drawn = np.empty((n, num_layers), dtype=np.int8)
    for row in range(n):
        rng = np.random.default_rng([seed, start + row, _STREAM])
        width = widths[rng.binomial(len(widths) - 1, 1.0 - rng.random(), size=num_layers)]
        likes = np.where(bits == width[:, None], rng.random((num_layers, len(bits))), -1.0)
        drawn[row] = likes.argmax(axis=1)
    return np.where(can_round(macs), drawn, 0).astype(np.int8)


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
        return np.zeros(len(layer_names), dtype=np.int8)
    return layers_from_json(layers, layer_names, [str(option) for option in options], source)


def load_activations(
    path: str | Path, layer_names: Sequence[str], options: Sequence[ActivationOption]
) -> np.ndarray:
    """The activation vector of a config file; arguments, result and errors as of `activations_from_json`."""
    return activations_from_json(load_document(path), layer_names, options, path)
