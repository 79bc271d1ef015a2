"""What stands around any option: ``hadamard+...``, a rotation, and ``...+r16``, a low-rank residual."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qsd.quantizers.coding import saturated
from qsd.quantizers.decoding import rotate_blocks, scratch
from qsd.quantizers.option import HALF, WRAPPERS, Option, Rows, Stored, Tensors, Traits, shortened
from qsd.quantizers.rotation import block_size, rotate
from qsd.quantizers.scales import fan_in
from qsd.quantizers.weight import QuantizedWeight
from qsd.support.errors import QsdError

_SMALLEST_BLOCK = 16
_ROTATED = "hadamard+"
_LOW_RANK = re.compile(r"(.+)\+r([1-9][0-9]{0,8})", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Hadamard(Option):
    """The weight is rotated along its inputs, block by block, before it is quantized, and back afterwards.

    Blocks are the largest power of two that divides the inputs of a channel, 16 to 128 (Ashkboos et al.,
    "QuaRot", NeurIPS 2024). Nothing is stored for the rotation.

    Attributes:
        inner: how the rotated weight is stored.
    """

    inner: Option

    def __str__(self) -> str:
        return f"{_ROTATED}{self.inner}"

    @property
    def traits(self) -> Traits:
        return dataclasses.replace(self.inner.traits, rotated=True)

    @property
    def missing(self) -> str | None:
        return self.inner.missing

    def accepts(self, shape: Sequence[int]) -> bool:
        return block_size(fan_in(shape)) >= _SMALLEST_BLOCK and self.inner.accepts(shape)

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        return self.inner.layout(shape)

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        return self.inner.quantize(dataclasses.replace(rows, values=rotate(rows.values)))

    def core(self, tensors: Tensors, shape: Sequence[int]) -> tuple[Option, Callable[[Tensor], Tensor]]:
        option, restore = self.inner.core(tensors, shape)
        return option, lambda values: rotate(restore(values).reshape(shape[0], -1)).view(tuple(shape))

    def decode(self, tensors: Tensors, shape: Sequence[int], out: Tensor) -> bool:
        values = out.view(-1) if out.dtype == torch.float32 else scratch(out.numel())
        QuantizedWeight(self.inner, tuple(shape), dict(tensors)).dequantize(torch.float32, values)
        rotate_blocks(values, block_size(fan_in(shape)))
        if out.dtype != torch.float32:
            limit = torch.finfo(out.dtype).max
            out.view(-1).copy_(values.clamp_(-limit, limit))
        return True

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        values = self.inner.dequantize(tensors, shape, torch.float32)
        return saturated(rotate(values.reshape(shape[0], -1)), dtype).view(tuple(shape))


@dataclasses.dataclass(frozen=True)
class LowRank(Option):
    """What an option leaves over, to the best approximation of a low rank, is added in 16 bits.

    Attributes:
        inner: the option.
        rank: of the residual.
    """

    inner: Option
    rank: int

    def __str__(self) -> str:
        return f"{self.inner}+r{self.rank}"

    @property
    def traits(self) -> Traits:
        return dataclasses.replace(self.inner.traits, rank=self.rank)

    @property
    def missing(self) -> str | None:
        return self.inner.missing

    def accepts(self, shape: Sequence[int]) -> bool:
        return self.rank < min(shape[0], fan_in(shape)) and self.inner.accepts(shape)

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        return self.inner.layout(shape) | {
            "left": Stored((shape[0], self.rank), HALF),
            "right": Stored((self.rank, fan_in(shape)), HALF),
        }

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        tensors = self.inner.quantize(rows)
        restored = self.inner.dequantize(tensors, rows.shape, torch.float32)
        residual = rows.values.double() - restored.reshape(rows.values.shape).double()
        left, lengths, right = torch.linalg.svd(residual, full_matrices=False)
        root = lengths[: self.rank].sqrt()
        return tensors | {
            "left": rows.stored(left[:, : self.rank] * root).contiguous(),
            "right": rows.stored(root[:, None] * right[: self.rank]).contiguous(),
        }

    def core(self, tensors: Tensors, shape: Sequence[int]) -> tuple[Option, Callable[[Tensor], Tensor]]:
        option, restore = self.inner.core(tensors, shape)
        residual = self._residual(tensors, shape)
        return option, lambda values: restore(values) + residual.to(values.device)

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        values = self.inner.dequantize(tensors, shape, torch.float32)
        return saturated(values + self._residual(tensors, shape), dtype)

    def _residual(self, tensors: Tensors, shape: Sequence[int]) -> Tensor:
        return (tensors["left"].float() @ tensors["right"].float()).view(tuple(shape))


def _read_low_rank(text: str) -> Option | None:
    match = _LOW_RANK.fullmatch(text)
    if match is None:
        return None
    return LowRank(_plain(match[1], text, twice=_LOW_RANK.fullmatch(match[1]) is not None), int(match[2]))


def _read_rotated(text: str) -> Option | None:
    if not text.startswith(_ROTATED):
        return None
    inner = text.removeprefix(_ROTATED)
    return Hadamard(_plain(inner, text, twice=inner.startswith(_ROTATED)))


def _plain(text: str, whole: str, *, twice: bool) -> Option:
    if twice or (inner := Option.parse(text)).traits.keep:
        raise QsdError(
            f"unknown quantization option '{shortened(whole)}': '{shortened(text)}' can have nothing more "
            "around it"
        )
    return inner


WRAPPERS += [_read_low_rank, _read_rotated]
