"""k-means codebooks: one per output channel, per group of its inputs, or per tensor."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.amplitude import gain
from qsd.quantizers.coding import encode, lookup, saturated
from qsd.quantizers.kmeans import kmeans_codebooks
from qsd.quantizers.option import (
    HALF,
    Option,
    Rows,
    Scope,
    Spelling,
    Stored,
    Tensors,
    Traits,
    number_of,
    only,
    scheme,
)
from qsd.quantizers.packing import pack, packed_bytes, unpack
from qsd.quantizers.scales import divides, num_groups


@scheme("kmeans_c", "kmeans_a")
@dataclasses.dataclass(frozen=True)
class KMeans(Option):
    """Codes and codebooks of least squared error, found exactly.

    Attributes:
        per_tensor: one codebook for the whole weight (``kmeans_a``), else one per output channel.
        bits: of a code.
        group: inputs that share a codebook, 0 for whole rows.
        paper: codebooks are the bare centroids, as in Qua²SeDiMo; else they are stretched so that no
            amplitude is lost (:mod:`qsd.quantizers.amplitude`).
    """

    grammar = "kmeans_c-BITS[gGROUP][:paper], kmeans_a-BITS[:paper]"
    limits = "BITS from 2 to 8, GROUP a multiple of 8"

    per_tensor: bool
    bits: int
    group: int = 0
    paper: bool = False

    @classmethod
    def spelled(cls, spelling: Spelling) -> "KMeans":
        flags = only(spelling.flags, {"paper"})
        per_tensor = spelling.name == "kmeans_a"
        if spelling.group and (per_tensor or flags or spelling.group % 8):
            raise ValueError("group")
        return cls(per_tensor, number_of(spelling.bits, 2, 8), spelling.group, bool(flags))

    def __str__(self) -> str:
        name = f"kmeans_{'a' if self.per_tensor else 'c'}-{self.bits}"
        return name + (f"g{self.group}" if self.group else "") + (":paper" if self.paper else "")

    @property
    def levels(self) -> int:
        """Entries of a codebook."""
        return 1 << self.bits

    @property
    def traits(self) -> Traits:
        scope: Scope = "tensor" if self.per_tensor else "group" if self.group else "row"
        return Traits(bits=self.bits, grid="codebook", scope=scope, group=self.group)

    @property
    def carriers(self) -> frozenset[str]:
        return frozenset() if self.group else frozenset({"sdnq"})

    def accepts(self, shape: Sequence[int]) -> bool:
        return divides(shape, self.group)

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        books = 1 if self.per_tensor else shape[0] * num_groups(shape, self.group)
        codes = packed_bytes(torch.Size(shape).numel(), self.bits)
        return {
            "codes": Stored((codes,), (torch.uint8,)),
            "codebook": Stored((books, self.levels), HALF),
        }

    @classmethod
    def quantize_together(cls, options: Sequence["KMeans"], rows: Rows) -> dict[Option, dict[str, Tensor]]:
        found: dict[Option, dict[str, Tensor]] = {}
        for units in dict.fromkeys((option.per_tensor, option.group) for option in options):
            wanted = [option for option in options if (option.per_tensor, option.group) == units]
            values = wanted[0]._units(rows.values)
            sizes = sorted({option.levels for option in wanted})
            books = kmeans_codebooks(values, sizes, compiled=rows.compiled)
            for option in wanted:
                found[option] = option._encoded(values, rows, books[option.levels])
        return found

    def _units(self, values: Tensor) -> Tensor:
        """What has a codebook each, as rows."""
        return values.reshape(1, -1) if self.per_tensor else values.reshape(-1, self.group or values.shape[1])

    def _encoded(self, values: Tensor, rows: Rows, book: Tensor) -> dict[str, Tensor]:
        stored = rows.stored(book)
        codes = encode(values, stored.float(), compiled=rows.compiled)
        if not self.paper:
            lost = gain(values, lookup(stored.float(), codes), compiled=rows.compiled)
            stored = rows.stored(book * lost[:, None])
        return {"codes": pack(codes, self.bits), "codebook": stored}

    def table(self, tensors: Tensors, count: int, dtype: torch.dtype) -> Tensor | None:
        return saturated(tensors["codebook"].float(), dtype)

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        books = saturated(tensors["codebook"].float(), dtype)
        codes = unpack(tensors["codes"], self.bits, torch.Size(shape).numel())
        units = len(books) if not self.per_tensor else shape[0]
        return lookup(books, codes.view(units, -1)).view(tuple(shape))
