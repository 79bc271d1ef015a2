"""``fp8_e4m3``: 8-bit floats under one scale of the tensor or of each row."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from qsd.quantizers.coding import saturated
from qsd.quantizers.option import Option, Rows, Scope, Spelling, Stored, Tensors, Traits, only, scheme

_TYPE = torch.float8_e4m3fn


@scheme("fp8_e4m3")
@dataclasses.dataclass(frozen=True)
class Float8(Option):
    """Values are ``weight * scale``, the largest of a tensor or row being the largest float of its type.

    Attributes:
        per_row: one scale per output channel, else one for the tensor.
    """

    grammar = "fp8_e4m3[:row]"

    per_row: bool = False

    @classmethod
    def spelled(cls, spelling: Spelling) -> "Float8":
        flags = only(spelling.flags, {"row"})
        if spelling.bits is not None or spelling.group:
            raise ValueError("fp8_e4m3 has no bits and no groups")
        return cls("row" in flags)

    def __str__(self) -> str:
        return "fp8_e4m3:row" if self.per_row else "fp8_e4m3"

    @property
    def traits(self) -> Traits:
        scope: Scope = "row" if self.per_row else "tensor"
        return Traits(bits=8, grid="float", scope=scope, symmetric=True, scale_bits=32)

    @property
    def carriers(self) -> frozenset[str]:
        return frozenset({"sdnq"} if self.per_row else {"sdnq", "comfy"})

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        count = shape[0] if self.per_row else 1
        return {"weight": Stored(tuple(shape), (_TYPE,)), "scale": Stored((count,), (torch.float32,))}

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        values = rows.values if self.per_row else rows.values.reshape(1, -1)
        largest = values.abs().amax(dim=1, keepdim=True)
        scale = (largest / torch.finfo(_TYPE).max).clamp_min(torch.finfo(torch.float32).tiny)
        limit = torch.finfo(_TYPE).max
        codes = (values / scale).clamp(-limit, limit).to(_TYPE)
        return {"weight": codes.view(rows.shape), "scale": scale[:, 0]}

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        scale = tensors["scale"]
        values = tensors["weight"].float().view(len(scale), -1) * scale[:, None]
        return saturated(values, dtype).view(tuple(shape))
