"""``uaq``: uniform grids per output channel or per group of its inputs, with a search for the best range."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.coding import saturated
from qsd.quantizers.option import Option, Rows, Spelling, Stored, Tensors, Traits, number_of, only, scheme
from qsd.quantizers.packing import pack, packed_bytes, unpack
from qsd.quantizers.scales import (
    ScaleKind,
    Scales,
    divides,
    kind_of,
    num_groups,
    read_scale,
    scale_bits,
    scale_layout,
)

SHRINKS = tuple(tenths / 10 for tenths in range(10))
"""Shares by which maximum and minimum are shrunk together; the best one per channel is kept."""

ERROR_POWER = 2.4

FARTHEST_ZERO = 1 << 14
"""Largest |zero point|. A channel whose values are all far from zero and close together takes a larger scale
instead, an error below 1/30,000 of its values; the rounding of the scale then still fits into int16."""


@scheme("uaq", "int8")
@dataclasses.dataclass(frozen=True)
class Affine(Option):
    """Values are ``(code - zero point) * scale``.

    Ranges have the least mean |error|^2.4 among shrunk ones (Li et al., BRECQ, ICLR 2021), measured with
    scales as they are stored; then scales are stretched so that no amplitude is lost.

    Attributes:
        bits: of a code.
        group: inputs that share a scale, 0 for whole rows.
        symmetric: zero is the middle code everywhere, and no zero points are stored.
        scales: format of the scales (:mod:`qsd.quantizers.scales`); beside 8 bits, zero points have as many
            bits as a code.
        paper: the bare form of Qua²SeDiMo, whose ranges lose amplitude.
    """

    grammar = "uaq-BITS[gGROUP][:sym][:f8|:s8], uaq-BITS:paper, int8"
    limits = "BITS from 2 to 8, GROUP a multiple of 8"

    bits: int
    group: int = 0
    symmetric: bool = False
    scales: ScaleKind = ""
    paper: bool = False

    @classmethod
    def spelled(cls, spelling: Spelling) -> "Affine":
        if spelling.name == "int8":
            only(spelling.flags, ())
            if spelling.bits is not None or spelling.group:
                raise ValueError("int8 has no settings")
            return cls(8, symmetric=True)
        flags = only(spelling.flags, {"sym", "f8", "s8", "paper"})
        if ("paper" in flags and (len(flags) > 1 or spelling.group)) or spelling.group % 8:
            raise ValueError("the paper's has no other settings")
        bits = number_of(spelling.bits, 2, 8)
        return cls(bits, spelling.group, "sym" in flags, kind_of(flags), "paper" in flags)

    def __str__(self) -> str:
        if self == Affine(8, symmetric=True):
            return "int8"
        flags = ("sym" * self.symmetric, self.scales, "paper" * self.paper)
        name = f"uaq-{self.bits}" + (f"g{self.group}" if self.group else "")
        return ":".join([name, *filter(None, flags)])

    @property
    def traits(self) -> Traits:
        return Traits(
            bits=self.bits,
            grid="uniform",
            scope="group" if self.group else "row",
            group=self.group,
            symmetric=self.symmetric,
            scale_bits=scale_bits(self.scales),
        )

    @property
    def carriers(self) -> frozenset[str]:
        comfy = {"comfy"} if self == Affine(8, symmetric=True) else set()
        return frozenset(comfy if self.scales else {"sdnq"} | comfy)  # finer scales round in float32

    @property
    def _far_zero(self) -> bool:
        """Whether zero may lie anywhere, as an integer of 16 bits."""
        return not (self.symmetric or self.scales or self.group)

    def accepts(self, shape: Sequence[int]) -> bool:
        return divides(shape, self.group)

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        units = shape[0] * num_groups(shape, self.group)
        stored = {
            "codes": Stored((packed_bytes(torch.Size(shape).numel(), self.bits),), (torch.uint8,)),
            **scale_layout(shape, self.group, self.scales),
        }
        if self._far_zero:
            stored["zero_point"] = Stored((units,), (torch.int16,))
        elif not self.symmetric:
            stored["zero_point"] = Stored((packed_bytes(units, self.bits),), (torch.uint8,))
        return stored

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        values = rows.values.reshape(-1, self.group or rows.values.shape[1])
        scales, wanted, zero_point = self._candidates(rows, values)
        best = best_range(values, wanted, zero_point.float(), self.bits, compiled=rows.compiled)
        scale, zero = (each.gather(1, best)[:, 0] for each in (wanted, zero_point))
        codes = torch.round(values / scale[:, None] + zero.float()[:, None])
        codes = codes.clamp(0, (1 << self.bits) - 1)
        restored = (codes - zero.float()[:, None]) * scale[:, None]
        tensors = {
            "codes": pack(codes.to(torch.uint8), self.bits),
            **scales.tensors(scale, values, restored, stretch=not self.paper),
        }
        if self._far_zero:
            tensors["zero_point"] = zero.to(torch.int16)
        elif not self.symmetric:
            tensors["zero_point"] = pack(zero.to(torch.uint8), self.bits)
        return tensors

    def _candidates(self, rows: Rows, values: Tensor) -> tuple[Scales, Tensor, Tensor]:
        """Values of the stored scales, and zero points, of every shrink, each [units, shrinks]."""
        low, high = (each.double() for each in values.aminmax(dim=1, keepdim=True))
        if not self._far_zero:
            low, high = low.clamp(max=0), high.clamp(min=0)
        keep = 1 - torch.tensor(SHRINKS, dtype=torch.float64, device=values.device)
        top = (1 << self.bits) - 1
        if self.symmetric:
            return self._symmetric_candidates(rows, low, high, keep)
        low, high = low * keep, high * keep
        scale = (high - low) / top
        if self._far_zero:
            scale = torch.maximum(scale, torch.maximum(low.abs(), high.abs()) / FARTHEST_ZERO)
        scales = Scales(rows, self.scales, scale.amax(dim=1), self.group)
        stored = scales.round(scale)
        zero_point = torch.round(-low / stored.double())
        return scales, stored, zero_point if self._far_zero else zero_point.clamp(0, top)

    def _symmetric_candidates(
        self, rows: Rows, low: Tensor, high: Tensor, keep: Tensor
    ) -> tuple[Scales, Tensor, Tensor]:
        """The value of largest size takes the outermost code, which there is on one side only: a negative
        scale turns that side round. With 8 bits, which are plenty, scales are positive as other programs
        have them."""
        middle = 1 << (self.bits - 1)
        if self.bits == 8:
            scale = torch.maximum(-low, high) / (middle - 1) * keep
        else:
            scale = torch.where(high > -low, -high, -low) / middle * keep
        scales = Scales(rows, self.scales, scale.abs().amax(dim=1), self.group)
        stored = scales.round(scale)
        return scales, stored, torch.full_like(scale, middle)

    def table(self, tensors: Tensors, count: int, dtype: torch.dtype) -> Tensor | None:
        scale = read_scale(tensors)[:, None]
        if len(scale) << self.bits > count:
            return None
        codes = torch.arange(1 << self.bits, dtype=torch.float32, device=scale.device)
        return saturated((codes - self._zeros(tensors, len(scale))) * scale, dtype)

    def grid(self, tensors: Tensors, units: int) -> tuple[Tensor, Tensor]:
        scale = read_scale(tensors)
        return scale, torch.zeros_like(scale) + torch.as_tensor(self._zeros(tensors, units)).view(-1)

    def _zeros(self, tensors: Tensors, units: int) -> Tensor | int:
        """Codes of zero, float32 [units, 1] or the one of all."""
        if self.symmetric:
            return 1 << (self.bits - 1)
        if self._far_zero:
            return tensors["zero_point"].float()[:, None]
        return unpack(tensors["zero_point"], self.bits, units).float()[:, None]

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        scale = read_scale(tensors)[:, None]
        codes = unpack(tensors["codes"], self.bits, torch.Size(shape).numel()).view(len(scale), -1)
        values = codes.float().sub_(self._zeros(tensors, len(scale)))
        return saturated(values.mul_(scale), dtype).view(tuple(shape))


def best_range(rows: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, compiled: bool) -> Tensor:
    """Positions of the candidates with the least mean |error|^2.4, int64 [R, 1].

    Args:
        rows: float32 [R, n], finite.
        scale: float32 [R, S], not zero.
        zero_point: float32 [R, S], whole numbers.
        bits: Bits per code.
        compiled: Whether to use the numba kernel, on the CPU.
    """
    if compiled:
        from qsd.quantizers import kernels

        errors = torch.empty(scale.shape)
        kernels.power_errors(
            rows.contiguous().numpy(), scale.numpy(), zero_point.numpy(), bits, errors.numpy()
        )
    else:
        pairs = zip(scale.T, zero_point.T, strict=True)
        errors = torch.stack([_power_errors(rows, s, z, bits) for s, z in pairs], 1)
    return (errors.double() * scale.abs().double() ** ERROR_POWER).argmin(dim=1, keepdim=True)


def _power_errors(rows: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Sum of |error / scale|^2.4 of each row under one candidate [R]."""
    exact = rows / scale[:, None] + zero_point[:, None]
    codes = exact.round().clamp(0, (1 << bits) - 1)
    return (exact - codes).abs().pow(ERROR_POWER).sum(dim=1)
