"""``w4a8``: ComfyUI's 4-bit codebook weights (``asym_w4a8_int8`` of comfy-kitchen), byte for byte."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.amplitude import gain
from qsd.quantizers.coding import saturated
from qsd.quantizers.option import Option, Rows, Spelling, Stored, Tensors, Traits, only, scheme
from qsd.quantizers.schemes.shared_codebook import fit_scales

GROUP = 16
_LARGEST_BLOCK, _SMALLEST_BLOCK = 256, 16
_LARGEST_LEVEL = 127
_FLOAT8 = torch.float8_e4m3fn
_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 1.06)
_BOOK = (
    *(-0.980602, -0.794529, -0.638165, -0.500986, -0.377321, -0.263187, -0.155210, -0.050720),
    *(0.052541, 0.156985, 0.265284, 0.379533, 0.502636, 0.638953, 0.794876, 0.980671),
)
"""The format's own codebook, which fused matrices can share and fast kernels have built in."""


@scheme("w4a8")
@dataclasses.dataclass(frozen=True)
class W4A8(Option):
    """Values are ``round(book[code] * s_rel[group]) * s_channel[row]``, rotated back along the inputs.

    The rounded product is an int8. Rotations are blocks of the symmetric regular Hadamard matrix, the largest
    power of four up to 256 that divides the inputs. Amplitude is given back by ``s_channel``.
    """

    grammar = "w4a8"

    @classmethod
    def spelled(cls, spelling: Spelling) -> "W4A8":
        only(spelling.flags, ())
        if spelling.bits is not None or spelling.group:
            raise ValueError("w4a8 has no settings")
        return cls()

    def __str__(self) -> str:
        return "w4a8"

    @property
    def traits(self) -> Traits:
        return Traits(
            bits=4, grid="codebook", scope="group", group=GROUP, symmetric=True, scale_bits=8, rotated=True
        )

    @property
    def carriers(self) -> frozenset[str]:
        return frozenset({"comfy"})

    def accepts(self, shape: Sequence[int]) -> bool:
        return len(shape) == 2 and rotation_block(shape[1]) >= _SMALLEST_BLOCK

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        rows, inputs = shape
        return {
            "nibbles": Stored((rows, inputs // 2), (torch.int8,)),
            "s_rel": Stored((rows, inputs // GROUP), (_FLOAT8,)),
            "s_channel": Stored((rows,), (torch.float32,)),
        }

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        values = _rotated(rows.values)
        book = codebook().to(values.device)
        grouped = values.reshape(-1, GROUP).contiguous()
        unit = grouped.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        grouped = grouped / unit
        anchors = grouped.abs().amax(dim=1).clamp_min(1e-20)
        scale = fit_scales(grouped, anchors, book[None], _FACTORS, compiled=rows.compiled).abs()
        largest = (scale.view(len(values), -1).amax(dim=1) * book.abs().max()).clamp_min(1e-20)
        channel = largest / _LARGEST_LEVEL
        relative = (scale.view(len(values), -1) / channel[:, None]).to(_FLOAT8)
        levels = _levels(relative, book)
        wanted = grouped.view(len(values), -1, GROUP) / channel[:, None, None]
        borders = (levels[..., 1:] + levels[..., :-1]) / 2
        codes = torch.searchsorted(borders.contiguous(), wanted.contiguous()).to(torch.uint8)
        restored = levels.gather(2, codes.long()) * channel[:, None, None]
        exact = grouped.view(len(values), -1)
        stretch = gain(exact, restored.reshape(exact.shape), compiled=rows.compiled).float()
        flat = codes.view(len(values), -1)
        return {
            "nibbles": (flat[:, 0::2] | flat[:, 1::2] << 4).view(torch.int8).contiguous(),
            "s_rel": relative,
            "s_channel": channel * unit * stretch.to(channel.device),
        }

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        packed = tensors["nibbles"].view(torch.uint8)
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).view(shape[0], -1, GROUP)
        levels = _levels(tensors["s_rel"], codebook().to(packed.device))
        values = levels.gather(2, codes.long()) * tensors["s_channel"][:, None, None]
        return saturated(_rotated(values.view(shape[0], -1)), dtype).view(tuple(shape))


def codebook() -> Tensor:
    """The format's codebook, float32 [16], ascending."""
    return torch.tensor(_BOOK)


def rotation_block(inputs: int) -> int:
    """The largest power of four, at most 256, that divides a number of inputs."""
    common = math.gcd(inputs, _LARGEST_BLOCK)
    return common if common.bit_length() % 2 else common // 2


def _levels(relative: Tensor, book: Tensor) -> Tensor:
    """What the codes of each group stand for: whole numbers as float32 [O, groups, 16]."""
    return (relative.float()[..., None] * book).round_().clamp_(-_LARGEST_LEVEL, _LARGEST_LEVEL)


def _rotated(values: Tensor) -> Tensor:
    """Rows [R, n] times the block-diagonal rotation, which is its own inverse."""
    block = rotation_block(values.shape[1])
    return (values.reshape(-1, block) @ _regular_hadamard(block).to(values.device)).view(values.shape)


@functools.cache
def _regular_hadamard(size: int) -> Tensor:
    """The orthonormal, symmetric Hadamard matrix whose rows have equal sums, float32 [size, size]."""
    seed = 1 - 2 * torch.eye(4).flip(0)
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, seed)
    return matrix / size**0.5
