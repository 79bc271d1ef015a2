"""What pairs of a weight option and an activation option cost: bytes, bits of activations, bit-operations.

Every cost of a config is a sum over its layers, so a budget of any of them is a bound on a sum.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from qsd.quantizers.activations import ActivationOption
from qsd.support.errors import QsdError


def bit_operations(macs: np.ndarray, weight_bits: np.ndarray, activation_bits: np.ndarray) -> np.ndarray:
    """Bit-operations of pairs: multiply-accumulates x weight bits x activation bits, float64 [L, O * A].

    Args:
        macs: int64 [L], in one forward pass of one image.
        weight_bits: float [O], bits of a code; 16 where nothing is quantized.
        activation_bits: float [A].
    """
    pairs = np.multiply.outer(np.asarray(weight_bits, float), np.asarray(activation_bits, float)).ravel()
    return macs[:, None] * pairs


@dataclasses.dataclass(frozen=True)
class JointCosts:
    """Costs of pairs, and what they may sum to. L layers, P = O * A pairs, C kinds of cost.

    Attributes:
        names: of the kinds.
        tables: float64 [C, L, P]; infinite where a layer cannot take a pair.
        limits: float64 [C].
    """

    names: tuple[str, ...]
    tables: np.ndarray
    limits: np.ndarray

    @classmethod
    def make(
        cls,
        num_bytes: np.ndarray,
        num_weights: np.ndarray,
        macs: np.ndarray,
        weight_bits: Sequence[float],
        activations: Sequence[ActivationOption],
        *,
        max_bits: float | None = None,
        max_act_bits: float | None = None,
        max_bops: float | None = None,
    ) -> Self:
        """The budgets that a user states; each that is not given bounds nothing.

        Args:
            num_bytes: int64 [L, O], -1 where a layer cannot take an option.
            num_weights: int64 [L].
            macs: int64 [L]; a layer with none beside others keeps its input.
            weight_bits: O bits of a code.
            activations: A activation options.
            max_bits: average bits per weight, with everything that is stored.
            max_act_bits: mean bits of activations, each layer counting by its multiply-accumulates.
            max_bops: bit-operations of one forward pass of one image.

        Raises:
            QsdError: multiply-accumulates are not known, or no config fits a budget; the smallest is named.
        """
        if not macs.any():
            raise QsdError("bank: multiply-accumulates are not known; build it again with `qsd bank`")
        bits = np.array([option.bits for option in activations], dtype=np.float64)
        count, options = len(bits), num_bytes.shape[1]
        able = np.repeat(num_bytes >= 0, count, axis=1)
        able &= (macs > 0)[:, None] | np.tile(bits == 16, options)[None]
        mean_bits = macs[:, None] * np.tile(bits, options)[None] / macs.sum()
        by_name = {
            "bits": (8.0 * np.repeat(num_bytes, count, axis=1) / num_weights.sum(), max_bits),
            "activation bits": (mean_bits, max_act_bits),
            "bit-operations": (bit_operations(macs, np.asarray(weight_bits, float), bits), max_bops),
        }
        tables = np.stack([np.where(able, table, np.inf) for table, _ in by_name.values()])
        limits = np.array([math.inf if limit is None else float(limit) for _, limit in by_name.values()])
        costs = cls(tuple(by_name), tables, limits)
        costs._check()
        return costs

    def restricted(self, allowed: np.ndarray) -> Self:
        """The costs with only the pairs bool [L, P] left.

        Raises:
            QsdError: no config fits a budget any more.
        """
        costs = dataclasses.replace(self, tables=np.where(allowed, self.tables, np.inf))
        costs._check()
        return costs

    def of(self, pairs: np.ndarray) -> np.ndarray:
        """Costs of pairs [n, L], float64 [C, n]."""
        return self.tables[:, np.arange(pairs.shape[1]), pairs].sum(axis=-1)

    def fits(self, pairs: np.ndarray) -> np.ndarray:
        """Whether pairs [n, L] keep every budget, bool [n]; sums may err by rounding."""
        return np.asarray((self.of(pairs) <= self._bound()[:, None]).all(axis=0))

    def excess(self, pairs: np.ndarray) -> np.ndarray:
        """By how much pairs [n, L] exceed each budget, in shares of it, float64 [C, n]; 0 within."""
        bound = self._bound()[:, None]
        with np.errstate(invalid="ignore"):
            over = self.of(pairs) / bound - 1
        return np.where(np.isfinite(bound), np.maximum(over, 0.0), 0.0)

    def _bound(self) -> np.ndarray:
        return self.limits * (1 + 1e-12)

    def _check(self) -> None:
        smallest = self.tables.min(axis=2).sum(axis=1)
        for name, least, limit in zip(self.names, smallest, self.limits, strict=True):
            if not (math.isinf(limit) or limit >= least):
                least = math.ceil(round(least * 1e4, 3)) / 1e4  # works when it is typed in
                raise QsdError(
                    f"budget: {limit:g} {name} is below the smallest possible, {least:g}; "
                    "raise the budget or build a bank with smaller options"
                )
