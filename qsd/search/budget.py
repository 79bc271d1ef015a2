"""Sizes of configs, exact in bytes, and the budget that no config may exceed."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from qsd.bank.sizes import largest_bytes, smallest_bytes
from qsd.support.errors import QsdError


@dataclass(frozen=True)
class Budget:
    """The largest size allowed.

    Attributes:
        max_bytes: Bytes that a config may have at most.
        max_bits: The same in average bits per weight, 8 * max_bytes / number of weights.
        stated: Whether anybody asked for it; else it is the size of the largest config.
    """

    max_bytes: int
    max_bits: float
    stated: bool = True

    @classmethod
    def make(
        cls,
        num_bytes: np.ndarray,
        num_weights: np.ndarray,
        *,
        max_bits: float | None = None,
        max_bytes: int | None = None,
        remedy: str = "build a bank with smaller options",
    ) -> Self:
        """The budget that a user states in average bits or in bytes; with neither, everything fits.

        Args:
            num_bytes: int64 [L, O], -1 where an option is not available.
            num_weights: int64 [L].
            max_bits: Average bits per weight, codebooks and scales included.
            max_bytes: Bytes.
            remedy: What the message says beside raising the budget.

        Raises:
            QsdError: Both are given, or no config is that small; smallest and largest size are named.
        """
        if max_bits is not None and max_bytes is not None:
            raise QsdError("budget: give max_bits or max_bytes, not both")
        smallest, largest = smallest_bytes(num_bytes), largest_bytes(num_bytes)
        total_weights = int(num_weights.sum())
        if max_bits is not None:
            if not math.isfinite(max_bits):
                raise QsdError(
                    f"budget: max_bits is {max_bits}; give a number of bits per weight such as 3.5"
                )
            limit = _largest_bytes(max_bits, total_weights)
        elif max_bytes is not None:
            limit = int(max_bytes)
        else:
            limit = largest
        if limit < smallest:
            asked = f"{max_bits} bits" if max_bits is not None else f"{max_bytes} bytes"
            raise QsdError(
                f"budget: {asked} is below the smallest possible size, {smallest} bytes "
                f"({_rounded_up(smallest, total_weights):.4f} average bits; the largest is {largest} bytes, "
                f"{_rounded_up(largest, total_weights):.4f}); "
                f"raise the budget or {remedy}"
            )
        stated = max_bits is not None or max_bytes is not None
        return cls(max_bytes=limit, max_bits=8.0 * limit / total_weights, stated=stated)


def _rounded_up(size: int, total_weights: int) -> float:
    """Average bits of so many bytes that work as a budget when they are typed in with four decimals."""
    return math.ceil(8e4 * size / total_weights) / 1e4


def _largest_bytes(max_bits: float, total_weights: int) -> int:
    """The most bytes whose average bits, as computed in floating point, do not exceed `max_bits`."""
    limit = math.floor(max_bits * total_weights / 8) + 1
    while 8.0 * limit / total_weights > max_bits:
        limit -= 1
    return limit
