"""Scales of rows or groups as they are stored: in 16 bits, or in 8 bits under coarser scales.

``f8`` scales are e4m3 floats under one scale of the tensor, as NVFP4 has them; ``s8`` scales are integers up
to 127, of either sign, under a scale of their row in 16 bits (of the tensor where each row has a single one),
finer where the groups of a row are alike.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from qsd.quantizers.amplitude import gain
from qsd.quantizers.option import HALF, Rows, Stored, Tensors

ScaleKind = Literal["", "f8", "s8"]

_LARGEST = {"f8": torch.finfo(torch.float8_e4m3fn).max, "s8": 127.0}
_SMALLEST = {"f8": 2.0**-9, "s8": 1.0}
_TYPES = {"f8": torch.float8_e4m3fn, "s8": torch.int8}


def fan_in(shape: Sequence[int]) -> int:
    """Weights of one output channel."""
    return torch.Size(shape[1:]).numel()


def num_groups(shape: Sequence[int], group: int) -> int:
    """Groups of one row; the row is one where ``group`` is 0."""
    return fan_in(shape) // group if group else 1


def divides(shape: Sequence[int], group: int) -> bool:
    """Whether rows consist of whole groups, of more than one."""
    return group == 0 or (fan_in(shape) % group == 0 and fan_in(shape) > group)


def kind_of(flags: set[str]) -> ScaleKind:
    """The format that flags name.

    Raises:
        ValueError: They name both.
    """
    if {"f8", "s8"} <= flags:
        raise ValueError("f8 and s8")
    return "f8" if "f8" in flags else "s8" if "s8" in flags else ""


def scale_bits(kind: ScaleKind) -> int:
    """Bits of one scale."""
    return 8 if kind else 16


def scale_layout(shape: Sequence[int], group: int, kind: ScaleKind) -> dict[str, Stored]:
    """``scale`` [O * groups], and for 8 bits the ``scale_unit`` [1 or O] that multiplies scales."""
    count = shape[0] * num_groups(shape, group)
    if not kind:
        return {"scale": Stored((count,), HALF)}
    by_row = kind == "s8" and group > 0
    unit = Stored((shape[0],), HALF) if by_row else Stored((1,), (torch.float32,))
    return {"scale": Stored((count,), (_TYPES[kind],)), "scale_unit": unit}


class Scales:
    """How the scales of one weight are rounded.

    Args:
        rows: the weight.
        kind: format of the scales.
        largest: float64 [units], the largest absolute scale that each row or group may need.
        group: inputs per group, 0 for whole rows.
    """

    def __init__(self, rows: Rows, kind: ScaleKind, largest: Tensor, group: int) -> None:
        self._rows = rows
        self._kind = kind
        self._tiny = 2.0**-24 if rows.storage == torch.float16 else torch.finfo(rows.storage).tiny
        self._unit: Tensor | None = None
        if kind == "s8" and group:
            unit = largest.view(len(rows.values), -1).amax(dim=1) / _LARGEST[kind]
            self._unit = rows.stored(unit.clamp_min(self._tiny))
        elif kind:
            unit = (largest.max() / _LARGEST[kind]).clamp_min(torch.finfo(torch.float32).tiny)
            self._unit = unit.float().view(1)

    def round(self, scale: Tensor) -> Tensor:
        """Values of the nearest scales that can be stored and are not zero, float32 [units, ...]."""
        unit = _spread(self._unit, scale)
        return self._codes(scale, unit).float() * unit

    def tensors(
        self, scale: Tensor, exact: Tensor, restored: Tensor, *, stretch: bool = True
    ) -> dict[str, Tensor]:
        """What is stored, as :func:`scale_layout` has it.

        Args:
            scale: float32 [units], rounded.
            exact: float32 [units, n], the weight.
            restored: float32 [units, n], the weight quantized with these scales.
            stretch: whether to give back the amplitude that is lost: in each scale of 16 bits, else in the
                units of the scales.
        """
        unit, compiled = self._unit, self._rows.compiled
        if unit is None:
            lost = (
                gain(exact, restored, compiled=compiled) if stretch else scale.new_ones(len(scale)).double()
            )
            return {"scale": self._codes(scale * lost, scale.new_ones(())).to(self._rows.storage)}
        codes = self._codes(scale, _spread(unit, scale))
        if stretch:
            pair = exact.reshape(len(unit), -1), restored.reshape(len(unit), -1)
            lost = gain(*pair, compiled=compiled)
            stretched = unit.double() * lost
            unit = stretched.float() if unit.dtype == torch.float32 else self._rows.stored(stretched)
        return {"scale": codes, "scale_unit": unit}

    def _codes(self, scale: Tensor, unit: Tensor) -> Tensor:
        sign = torch.where(scale < 0, -1.0, 1.0)
        if not self._kind:
            return (sign * scale.abs().clamp(self._tiny, self._rows.limit)).to(self._rows.storage)
        size = (scale.abs() / unit).clamp(_SMALLEST[self._kind], _LARGEST[self._kind])
        return ((sign * size).round() if self._kind == "s8" else sign * size).to(_TYPES[self._kind])


def read_scale(tensors: Tensors) -> Tensor:
    """Values of the scales among tensors, float32 [units]."""
    scale = tensors["scale"].float()
    return scale * _spread(tensors.get("scale_unit"), scale)


def _spread(unit: Tensor | None, scale: Tensor) -> Tensor:
    """Units [1 or rows] beside the scales [units, ...] that they multiply, float32."""
    if unit is None:
        return scale.new_ones((), dtype=torch.float32)
    each = unit.float().repeat_interleave(len(scale) // len(unit))
    return each.view(-1, *[1] * (scale.ndim - 1))
