"""One shape of codebook for the whole tensor, scaled for each row or group: ``lloyd``, ``nf4``, ``fp4``."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.coding import encode, lookup, saturated, thresholds_of
from qsd.quantizers.decoding import decode_scaled
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

_ROUNDS = 6
_SAMPLE = 1 << 17  # weights that a codebook is fitted to
_FIRST = 1 << 13  # and those that its first form is
_TABLE = 1025
_REFINING = (1.0, 0.92, 1.08, -1.0)
"""Factors of scales, tried while a codebook is fitted; the negative one turns a group round."""
_FACTORS = tuple(sign * size for size in (1.0, 0.95, 0.9, 0.85, 0.8, 1.06) for sign in (1, -1))
"""Factors of the largest value of a group, tried in the end."""

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
    limits = "BITS from 2 to 6, GROUP a multiple of 8"

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

    @property
    def carriers(self) -> frozenset[str]:
        return frozenset() if self.group else frozenset({"sdnq"})

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
        values = rows.values.reshape(-1, self.group or rows.values.shape[1]).contiguous()
        unit = values.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        values = values / unit  # so that nothing here is out of range
        anchors = signed_largest(values)
        book = self._fitted_book(values, anchors, rows) if self._fitted else self._fixed_book(values.device)
        fitted = fit_scales(values, anchors, book, _FACTORS, compiled=rows.compiled).double() * unit
        scales = Scales(rows, self.scales, fitted.abs(), self.group)
        scale = scales.round(fitted)
        codes, restored = encode_scaled(values, (scale / unit), book, compiled=rows.compiled)
        tensors = {
            "codes": pack(codes, self.bits),
            **scales.tensors(scale, values, restored),
        }
        return tensors | ({"codebook": rows.stored(book)} if self._fitted else {})

    @property
    def _fitted(self) -> bool:
        return self.name == "lloyd"

    def _fixed_book(self, device: torch.device) -> Tensor:
        if self.name == "nf4":
            return torch.tensor([_NORMAL_FLOAT], device=device)
        book = torch.tensor([_E2M1], device=device)
        return torch.nn.functional.pad(book, (0, 1), value=1.0)  # the largest twice: 16 entries

    def _fitted_book(self, values: Tensor, anchors: Tensor, rows: Rows) -> Tensor:
        """The codebook of a sample of rows or groups, found alternately with their scales; float32."""
        step = max(1, values.numel() // _SAMPLE) | 1  # an odd step meets all columns
        values, scale = values[::step].contiguous(), anchors[::step]
        levels = 1 << self.bits
        relative = (values / scale[:, None]).reshape(1, -1)
        if relative.numel() > _FIRST:
            relative = relative[:, :: relative.numel() // _FIRST | 1]
        book = kmeans_codebooks(relative.contiguous(), [levels], compiled=rows.compiled)[levels].float()
        for _ in range(_ROUNDS):
            scale = fit_scales(values, scale, book, _REFINING, compiled=rows.compiled)
            codes, _ = encode_scaled(values, scale, book, compiled=rows.compiled)
            book = rows.stored(_refitted(values, scale, codes, book)).float()
        return book

    def decode(self, tensors: Tensors, shape: Sequence[int], out: Tensor) -> bool:
        scale = read_scale(tensors)
        book = tensors["codebook"].float() if self._fitted else self._fixed_book(scale.device)
        return decode_scaled(tensors["codes"], book[0], scale, out)

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


def signed_largest(values: Tensor) -> Tensor:
    """The value of largest size of each row [R, n], with its sign; 1 where all are as good as zero."""
    low, high = values.aminmax(dim=1)
    largest = torch.where(high >= -low, high, low)
    return torch.where(largest.abs() < 1e-20, 1.0, largest)


def fit_scales(
    values: Tensor, anchors: Tensor, book: Tensor, factors: tuple[float, ...], *, compiled: bool
) -> Tensor:
    """The scale of each row under which a codebook keeps its direction best (the kernel says how).

    Args:
        values: float32 [R, n].
        anchors: float32 [R], scales to start from.
        book: float32 [1, levels], ascending, within -2 and 2.
        factors: of the anchors, to try.
        compiled: whether to use the numba kernel, on the CPU.

    Returns:
        float32 [R].
    """
    table = _nearest_table(book)
    tried = torch.tensor(factors)
    if compiled:
        from qsd.quantizers import kernels

        found = torch.empty(len(values))
        kernels.fit_scales(
            values.numpy(), anchors.contiguous().numpy(), tried.numpy(), table.numpy(), found.numpy()
        )
        return found
    best, found = torch.zeros_like(anchors), anchors.clone()
    last = len(table) - 1
    for factor in factors:
        place = (values / (anchors * factor)[:, None] * (last / 4) + (last + 1) / 2).clamp(0, last)
        restored = table[place.int()]
        product, energy = (values * restored).sum(dim=1), restored.square().sum(dim=1)
        kept = torch.where(energy > 0, product.square() / energy, 0.0)
        found = torch.where(kept > best, product / energy, found)
        best = torch.maximum(best, kept)
    return found


def encode_scaled(values: Tensor, scale: Tensor, book: Tensor, *, compiled: bool) -> tuple[Tensor, Tensor]:
    """Codes uint8 [R, n] of rows [R, n] under their scales [R], and the values that they stand for."""
    if not compiled:
        codes = encode(values / scale[:, None], book, compiled=False)
        return codes, lookup(book, codes) * scale[:, None]
    from qsd.quantizers import kernels

    codes = torch.empty(values.shape, dtype=torch.uint8)
    restored = torch.empty_like(values)
    kernels.encode_scaled(
        values.numpy(), scale.contiguous().numpy(), book[0].numpy(), codes.numpy(), restored.numpy()
    )
    return codes, restored


def _nearest_table(book: Tensor) -> Tensor:
    """The entry nearest to each of many evenly spaced values from -2 to 2, float32."""
    even = torch.linspace(-2, 2, _TABLE, device=book.device)
    return book[0][torch.searchsorted(thresholds_of(book)[0].contiguous(), even)].contiguous()


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
