"""A quantized weight: an option and the tensors that it is stored as."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qsd.quantizers.coding import CACHED_WEIGHTS
from qsd.quantizers.decoding import decode
from qsd.quantizers.option import Option
from qsd.support.errors import QsdError


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One weight in one option.

    Attributes:
        option: How it is stored.
        shape: Shape of the original weight; dimension 0 holds the output channels.
        stored: The tensors, as the option's ``layout`` has them.
    """

    option: Option
    shape: tuple[int, ...]
    stored: dict[str, Tensor]

    @cached_property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Exact bytes of everything stored."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored.values())

    def dequantize(self, dtype: torch.dtype = torch.float32, out: Tensor | None = None) -> Tensor:
        """The weight that the tensors stand for, in its original shape.

        Args:
            dtype: of the result; values beyond its range saturate.
            out: contiguous tensor of that dtype, with as many elements, to write the result into.
        """
        first = next(iter(self.stored.values()))
        if first.device.type == "cpu":
            values = torch.empty(self.numel, dtype=dtype) if out is None else out
            if self.option.decode(self.stored, self.shape, values):
                return values.view(self.shape)
        table = self.option.table(self.stored, self.numel, dtype)
        if table is not None:
            codes = self.stored["codes"]
            values = torch.empty(self.numel, dtype=dtype, device=codes.device) if out is None else out
            return decode(codes, table, values).view(self.shape)
        values = self.option.dequantize(self.stored, self.shape, dtype)
        return values if out is None else out.view(self.shape).copy_(values)

    def to(self, device: torch.device | str) -> "QuantizedWeight":
        """The same weight with its tensors on another device."""
        stored = {name: tensor.to(device) for name, tensor in self.stored.items()}
        return QuantizedWeight(self.option, self.shape, stored)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is stored, by name."""
        return dict(self.stored)

    @classmethod
    def from_tensors(
        cls, option: Option, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
    ) -> "QuantizedWeight":
        """The inverse of :meth:`tensors`.

        Raises:
            QsdError: If a tensor is missing or has another size or type than option and shape ask for.
        """
        layout = option.layout(shape)
        for name, wanted in layout.items():
            tensor = tensors.get(name)
            if tensor is None or tuple(tensor.shape) != wanted.shape or tensor.dtype not in wanted.dtypes:
                found = "is missing" if tensor is None else f"is {tensor.dtype} {tuple(tensor.shape)}"
                raise QsdError(
                    f"tensor '{name}' of a {option} weight of shape {tuple(shape)} {found}, not "
                    f"{wanted.dtypes[0]} {wanted.shape}: the file is damaged or of another option table, "
                    "build it again"
                )
        return cls(option, tuple(shape), {name: tensors[name] for name in layout})

    @classmethod
    def empty(cls, option: Option, shape: tuple[int, ...], device: str = "meta") -> "QuantizedWeight":
        """A quantized weight whose tensors have the right sizes and no values yet."""
        layout = option.layout(shape)
        stored = {
            name: torch.empty(wanted.shape, dtype=wanted.dtypes[0], device=device)
            for name, wanted in layout.items()
        }
        return cls(option, tuple(shape), stored)


def relative_error(weight: Tensor, quantized: QuantizedWeight) -> float:
    """Dimensionless error ||W - Wq|| / ||W|| (Euclidean norms), Wq in the dtype of W; 0/0 counts as 0."""
    restored = quantized.dequantize(weight.dtype).to(weight.device)
    error = norm = torch.zeros((), dtype=torch.float64, device=weight.device)
    together = weight.numel() if weight.is_cuda else CACHED_WEIGHTS
    parts = zip(weight.detach().flatten().split(together), restored.flatten().split(together), strict=True)
    for part, restored_part in parts:
        exact = part.double()
        difference = exact - restored_part
        error = error + difference.dot(difference)
        norm = norm + exact.dot(exact)
    return (error / norm).sqrt().item() if norm > 0 else error.sqrt().item()
