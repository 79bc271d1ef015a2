"""One shape of codebook for the whole tensor, scaled for each row or group: ``lloyd``, ``nf4``, ``fp4``."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.coding import encode, lookup, saturated
from qsd.quantizers.kmeans import kmeans_codebooks
from qsd.quantizers.option import (
    HALF,
    Option,
    Rows,
    Spelling,
    Stored,
    Tensors,
    Traits,
    number_of,
    only,
    scheme,
)
from qsd.quantizers.packing import pack, packed_bytes, unpack
from qsd.quantizers.scales import ScaleKind, Scales, divides, kind_of, read_scale, scale_bits, scale_layout

_ROUNDS = 4
_SAMPLE = 1 << 14

_NORMAL_FLOAT = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Dettmers et al., "QLoRA" (NeurIPS 2023), appendix E."""
_E2M1 = tuple(sorted({sign * value / 6 for sign in (-1, 1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)}))
"""Values of 4-bit floats (OCP microscaling formats, 2023); minus zero is no value of its own."""


@scheme("lloyd", "nf4", "fp4")
@dataclasses.dataclass(frozen=True)
class SharedCodebook(Option):
    """Values are ``codebook[code] * scale``, the scale being that of a row or group.

    Attributes:
        name: where the codebook comes from: ``lloyd`` is fitted to the tensor, alternately with the scales,
            and stored; ``nf4`` and ``fp4`` are fixed.
        bits: of a code.
        group: inputs that share a scale, 0 for whole rows.
        scales: format of the scales (:mod:`qsd.quantizers.scales`).
    """

    grammar = "lloyd-BITS[gGROUP][:f8|:s8], nf4[gGROUP][:f8|:s8], fp4[gGROUP][:f8|:s8]"

    name: str
    bits: int
    group: int = 0
    scales: ScaleKind = ""

    @classmethod
    def spelled(cls, spelling: Spelling) -> "SharedCodebook":
        flags = only(spelling.flags, {"f8", "s8"})
        fitted = spelling.name == "lloyd"
        if (not fitted and spelling.bits is not None) or spelling.group % 8:
            raise ValueError("bits")
        bits = number_of(spelling.bits, 2, 6) if fitted else 4
        return cls(spelling.name, bits, spelling.group, kind_of(flags))

    def __str__(self) -> str:
        name = f"{self.name}-{self.bits}" if self.name == "lloyd" else self.name
        return name + (f"g{self.group}" if self.group else "") + (f":{self.scales}" if self.scales else "")

    @property
    def traits(self) -> Traits:
        return Traits(
            bits=self.bits,
            grid="float" if self.name == "fp4" else "codebook",
            scope="group" if self.group else "row",
            group=self.group,
            symmetric=True,
            scale_bits=scale_bits(self.scales),
        )

    def accepts(self, shape: Sequence[int]) -> bool:
        return divides(shape, self.group)

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        stored = {
            "codes": Stored((packed_bytes(torch.Size(shape).numel(), self.bits),), (torch.uint8,)),
            **scale_layout(shape, self.group, self.scales),
        }
        if self.name == "lloyd":
            stored["codebook"] = Stored((1, 1 << self.bits), HALF)
        return stored

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        values = rows.values.reshape(-1, self.group or rows.values.shape[1])
        # A fitted codebook describes values of mean square 1, a fixed one those of largest size 1.
        size = (
            values.double().square().mean(dim=1).sqrt() if self._fitted else values.abs().amax(dim=1).double()
        )
        scales = Scales(rows, self.scales, size * (1.5 if self._fitted else 1.0), self.group)
        scale = scales.round(size)
        book = self._fitted_book(values, size, rows) if self._fitted else self._fixed_book(values.device)
        for _ in range(_ROUNDS):
            codes = encode(values / scale[:, None], book, compiled=rows.compiled)
            scale = scales.round(scale * _least_squares(values, lookup(book, codes) * scale[:, None]))
            if self._fitted:
                book = rows.stored(_refitted(values, scale, codes, book)).float()
        codes = encode(values / scale[:, None], book, compiled=rows.compiled)
        restored = lookup(book, codes) * scale[:, None]
        tensors = {"codes": pack(codes, self.bits), **scales.tensors(scale, values, restored)}
        return tensors | ({"codebook": rows.stored(book)} if self._fitted else {})

    @property
    def _fitted(self) -> bool:
        return self.name == "lloyd"

    def _fixed_book(self, device: torch.device) -> Tensor:
        if self.name == "nf4":
            return torch.tensor([_NORMAL_FLOAT], device=device)
        book = torch.tensor([_E2M1], device=device)
        return torch.nn.functional.pad(book, (0, 1), value=1.0)  # the largest twice: 16 entries

    def _fitted_book(self, values: Tensor, size: Tensor, rows: Rows) -> Tensor:
        """k-means of a sample of the values over their row's or group's size, float32 [1, levels]."""
        relative = (values / size.clamp_min(1e-30).float()[:, None]).reshape(-1)
        step = max(1, relative.numel() // _SAMPLE)
        sample = relative[:: step | 1][None].contiguous()  # an odd step meets all columns
        return rows.stored(
            kmeans_codebooks(sample, [1 << self.bits], compiled=rows.compiled)[1 << self.bits]
        ).float()

    def table(self, tensors: Tensors, count: int, dtype: torch.dtype) -> Tensor | None:
        scale = read_scale(tensors)[:, None]
        if len(scale) << self.bits > count:
            return None
        book = tensors["codebook"].float() if self._fitted else self._fixed_book(scale.device)
        return saturated(book * scale, dtype)

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        scale = read_scale(tensors)[:, None]
        codes = unpack(tensors["codes"], self.bits, torch.Size(shape).numel()).view(len(scale), -1)
        book = tensors["codebook"].float() if self._fitted else self._fixed_book(scale.device)
        return saturated(lookup(book, codes).mul_(scale), dtype).view(tuple(shape))


def _least_squares(exact: Tensor, restored: Tensor) -> Tensor:
    """<q, w> / <q, q> of each row, float64 [R]; 1 where nothing is left of a row."""
    energy = restored.double().square().sum(dim=1)
    product = (exact.double() * restored.double()).sum(dim=1)
    usable = (energy > 0) & (product > 0)
    return torch.where(usable, product / energy.clamp_min(1e-300), 1.0).clamp(0.5, 2.0)


def _refitted(values: Tensor, scale: Tensor, codes: Tensor, book: Tensor) -> Tensor:
    """The codebook of least squared error for given codes and scales, ascending."""
    flat = codes.reshape(-1).long()
    weight = scale.square()[:, None].expand_as(values).reshape(-1)
    product = (values * scale[:, None]).reshape(-1)
    levels = book.shape[1]
    total = torch.zeros(levels, dtype=torch.float64, device=values.device)
    share = torch.zeros_like(total)
    total.index_add_(0, flat, product.double())
    share.index_add_(0, flat, weight.double())
    refitted = torch.where(share > 0, total / share.clamp_min(1e-300), book[0].double())
    return refitted.sort().values[None].float()
