"""Compiled loops around an integer product on the CPU: one pass over the input, one over the output."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_LEVELS = np.float32(255)
_INFINITY = np.int32(0x7F800000)  # the bits of infinity


def round_rows(rows: Tensor, codes: Tensor, step: Tensor, zero: Tensor) -> bool:
    """Rounds rows on grids of their own, as :func:`qsd.runtime.int8.round_rows` does.

    Args:
        rows: bfloat16 or float32 [M, I], contiguous.
        codes: int8 [M, I], to be filled.
        step: float32 [M, 1], to be filled.
        zero: float32 [M, 1], to be filled.

    Returns:
        Whether all values are finite.
    """
    filled, steps, zeros = codes.numpy(), step.numpy()[:, 0], zero.numpy()[:, 0]
    if rows.dtype == torch.bfloat16:
        return bool(_round_bfloat16(rows.view(torch.uint16).numpy(), filled, steps, zeros))
    return bool(_round_float32(rows.numpy(), filled, steps, zeros))


def finish(
    product: Tensor, step: Tensor, zero: Tensor, sums: Tensor, scale: Tensor, bias: Tensor, out: Tensor
) -> None:
    """Fills ``out`` bfloat16 or float32 [M, O] with (product - zero * sums) * step * scale + bias.

    Args:
        product: float32 [M, O].
        step: float32 [M, 1].
        zero: float32 [M, 1].
        sums: float32 [O].
        scale: float32 [O].
        bias: float32 [O].
        out: contiguous.
    """
    bfloat16 = out.dtype == torch.bfloat16
    fill: Any = _finish_bfloat16 if bfloat16 else _finish_float32
    filled = out.view(torch.uint16) if bfloat16 else out
    fill(*(part.numpy() for part in (product, step[:, 0], zero[:, 0], sums, scale, bias, filled)))


@numba.njit(nogil=True, cache=True)
def _ends(bits: np.ndarray) -> tuple[np.int32, np.int32]:
    """Smallest and largest of floats by their bits, as integers that are ordered like the floats.

    Reductions of integers use vector instructions, and what is not finite lies beyond all finite values.
    """
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
    for index in range(len(bits)):
        key = bits[index] ^ ((bits[index] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, key)
        high = max(high, key)
    return low, high


@numba.njit(nogil=True, cache=True)
def _round_row(
    row: np.ndarray, codes: np.ndarray, ends: np.ndarray, values: np.ndarray
) -> tuple[Any, Any, Any]:
    """Rounds float32 [I] to codes int8 [I]; ``ends`` int32 [2] and ``values`` float32 [2] share memory."""
    smallest, largest = _ends(row.view(np.int32))
    finite = largest < _INFINITY and smallest > ~_INFINITY
    ends[0] = smallest ^ ((smallest >> np.int32(31)) & np.int32(0x7FFFFFFF))
    ends[1] = largest ^ ((largest >> np.int32(31)) & np.int32(0x7FFFFFFF))
    low, high = values[0], values[1]
    width = (high - low) / _LEVELS
    if width <= np.float32(1.1754944e-38):
        width = abs(low) if low != 0 else np.float32(1)
    first = np.rint(low / width)
    inverse = np.float32(1) / width
    shift = first + np.float32(128)
    for column in range(len(row)):
        value = np.rint(row[column] * inverse) - shift
        codes[column] = np.int8(np.int32(min(max(value, np.float32(-128)), np.float32(127))))
    return finite, width, np.float32(-128) - first


@numba.njit(nogil=True, cache=True)
def _round_float32(rows: np.ndarray, codes: np.ndarray, step: np.ndarray, zero: np.ndarray) -> bool:
    ends = np.empty(2, np.int32)
    values, all_finite = ends.view(np.float32), True
    for index in range(len(rows)):
        finite, step[index], zero[index] = _round_row(rows[index], codes[index], ends, values)
        all_finite = all_finite and finite
    return all_finite


@numba.njit(nogil=True, cache=True)
def _round_bfloat16(rows: np.ndarray, codes: np.ndarray, step: np.ndarray, zero: np.ndarray) -> bool:
    ends = np.empty(2, np.int32)
    values, all_finite = ends.view(np.float32), True
    bits = np.empty(rows.shape[1], np.uint32)
    row = bits.view(np.float32)
    for index in range(len(rows)):
        for column in range(rows.shape[1]):
            bits[column] = np.uint32(rows[index, column]) << np.uint32(16)
        finite, step[index], zero[index] = _round_row(row, codes[index], ends, values)
        all_finite = all_finite and finite
    return all_finite


@numba.njit(nogil=True, cache=True)
def _finish_float32(product, step, zero, sums, scale, bias, out):  # type: ignore[no-untyped-def]
    for row in range(len(product)):
        for column in range(product.shape[1]):
            value = product[row, column] - zero[row] * sums[column]
            out[row, column] = value * (step[row] * scale[column]) + bias[column]


@numba.njit(nogil=True, cache=True)
def _finish_bfloat16(product, step, zero, sums, scale, bias, out):  # type: ignore[no-untyped-def]
    line = np.empty(product.shape[1], np.float32)
    bits = line.view(np.uint32)
    for row in range(len(product)):
        for column in range(product.shape[1]):
            value = product[row, column] - zero[row] * sums[column]
            line[column] = value * (step[row] * scale[column]) + bias[column]
        for column in range(product.shape[1]):
            one = bits[column]
            rounded = (one + np.uint32(0x7FFF) + ((one >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            out[row, column] = np.uint16(rounded)
