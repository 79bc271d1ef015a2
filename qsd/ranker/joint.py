"""Weights and activations together: a layer's pair of options is one option of a larger table.

With O options for the weight of a layer and A for its input there are O * A pairs; pair o * A + a is option o
with activation option a. Everything that works on a table of options works on the table of pairs: with one
activation option the two are the same.
"""

import dataclasses

import numpy as np

from qsd.quantizers.activations import ActivationOption, parse_activations
from qsd.quantizers.options import Option
from qsd.store import Header, Responses

_RANGE = 6.0  # of a token, in standard deviations: what the error of rounding it is before it was measured


def pairs(configs: np.ndarray, activations: np.ndarray | None, num_activations: int) -> np.ndarray:
    """Pairs int64 [..., L] of options and activation options int8 [..., L] (None: 16 bits everywhere)."""
    wide = np.asarray(configs).astype(np.int64) * num_activations
    return wide if activations is None else wide + np.asarray(activations)


def unpaired(pair: np.ndarray, num_activations: int) -> tuple[np.ndarray, np.ndarray]:
    """Options and activation options, each int8 [..., L], of pairs [..., L]."""
    return (pair // num_activations).astype(np.int8), (pair % num_activations).astype(np.int8)


def joint(header: Header) -> Header:
    """The header whose options are pairs; the same one where activations have one option.

    The error of a pair is the length of the errors of its parts, that of rounding the input being nominal.
    Its response is the sum of theirs: to first order changes add up.
    """
    rounded = parse_activations(header.activation_options)
    if len(rounded) == 1:
        return header
    own = np.array([nominal_error(option) for option in rounded])
    error = np.sqrt(np.square(header.relative_error)[:, :, None] + np.square(own))
    count = len(rounded)
    responses = header.responses
    if responses is not None:
        spaces = {name: _summed(values, len(header.options)) for name, values in responses.spaces.items()}
        responses = Responses(spaces, responses.num_images, responses.noise_seed)
    return dataclasses.replace(
        header,
        options=tuple(option for option in header.options for _ in range(count)),
        num_bytes=np.repeat(header.num_bytes, count, axis=1),
        relative_error=error.reshape(len(error), -1),
        responses=responses,
    )


def weight_options(header: Header) -> tuple[Option, ...]:
    """The options of the weights, of a header of pairs."""
    return header.options[:: len(header.activation_options)]


def nominal_error(option: ActivationOption) -> float:
    """Relative error of rounding a token of normally distributed values, 0 for 16 bits."""
    return 0.0 if option.is_full else _RANGE / (2**option.bits - 1) / 12**0.5


def _summed(values: np.ndarray, options: int) -> np.ndarray:
    """Responses [L, O + A - 1, d] of options, then of activation options but 16, to those of pairs."""
    of_weights, rounded = values[:, :options], values[:, options:]
    of_activations = np.concatenate([np.zeros_like(rounded[:, :1]), rounded], axis=1)
    total = of_weights[:, :, None] + of_activations[:, None]
    return total.reshape(len(values), -1, values.shape[-1])
