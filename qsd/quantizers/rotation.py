"""Block-Hadamard rotation: spreads the outliers of a few channels over all channels of a block."""

import functools

import torch
from torch import Tensor

LARGEST_BLOCK = 128


def block_size(channels: int) -> int:
    """The largest power of two that divides a number of channels, at most 128; 1 leaves them as they are."""
    return min(channels & -channels, LARGEST_BLOCK)


def rotate(values: Tensor) -> Tensor:
    """Multiplies every block of the last axis by the orthonormal Hadamard matrix of Sylvester.

    The matrix is symmetric, so a second rotation is the inverse of the first. Rotating the input of a linear
    layer and the rows of its weight leaves its output as it was (QuaRot, Ashkboos et al. 2024).

    Args:
        values: float [..., C].

    Returns:
        float [..., C].
    """
    size = block_size(values.shape[-1])
    if size == 1:
        return values
    matrix = _hadamard(size).to(values)
    return (values.unflatten(-1, (-1, size)) @ matrix).flatten(-2)


@functools.cache
@torch.inference_mode(False)  # training reads it, too, whoever asked first
def _hadamard(size: int) -> Tensor:
    """Sylvester's orthonormal matrix, float32 [size, size]."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
