"""``keep``: the layer is not quantized and stored in 16 bits."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.coding import saturated
from qsd.quantizers.option import HALF, Option, Rows, Spelling, Stored, Tensors, Traits, only, scheme


@scheme("keep")
@dataclasses.dataclass(frozen=True)
class Keep(Option):
    """16-bit floats, at their true cost."""

    grammar = "keep"

    @classmethod
    def spelled(cls, spelling: Spelling) -> "Keep":
        only(spelling.flags, ())
        if spelling.bits is not None or spelling.group:
            raise ValueError("keep has no settings")
        return cls()

    def __str__(self) -> str:
        return "keep"

    @property
    def traits(self) -> Traits:
        return Traits(bits=16, grid="full", scope="tensor")

    @property
    def carriers(self) -> frozenset[str]:
        return frozenset({"sdnq", "gguf", "comfy"})

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        return {"weight": Stored(tuple(shape), HALF)}

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        return {"weight": rows.stored(rows.values).view(rows.shape)}

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return saturated(tensors["weight"], dtype)
