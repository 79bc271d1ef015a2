"""A stored weight as a differentiable function of what is stored beside its codes, whatever the scheme."""

import itertools
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from qsd.quantizers import QuantizedWeight

_MOST_TABLES = 2
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class TrainableTensor(nn.Module):
    """A tensor that trains in units of its own size, so that one learning rate fits all.

    Attributes:
        start: float32, the values it begins with.
        change: float32 parameter, the change in units of ``unit``.
        unit: root mean square of the values; of small ones at least ``smallest_unit``.
        stored: dtype that the values have in the file. Integers are rounded; gradients pass through.
    """

    start: Tensor

    def __init__(self, values: Tensor, smallest_unit: float = 1e-2) -> None:
        super().__init__()
        self.stored = values.dtype
        self.register_buffer("start", values.detach().float().clone(), persistent=False)
        self.change = nn.Parameter(torch.zeros_like(self.start))
        size = float(self.start.square().mean().sqrt()) if self.stored.is_floating_point else 1.0
        self.unit = max(size, smallest_unit if size == 0 else size * 1e-3)

    def forward(self) -> Tensor:
        """The values, float32."""
        values = self.start + self.unit * self.change
        if self.stored.is_floating_point:
            return values
        return values + (values.round() - values).detach()

    @torch.no_grad()
    def to_store(self) -> Tensor:
        """The values as the file holds them; those beyond its range saturate."""
        values = self()
        if not self.stored.is_floating_point:
            info = torch.iinfo(self.stored)
            return values.round().clamp(info.min, info.max).to(self.stored)
        limit = torch.finfo(self.stored).max
        return values.clamp(-limit, limit).to(self.stored)


class TrainableWeight(nn.Module):
    """A quantized weight whose codebooks, scales and zero points train.

    Every element of a dequantized weight depends on one entry of each of these, and linearly on each. Which
    entry and by how much is read off the scheme itself: it dequantizes tables of zeros, of ones and of
    positions. Tables that are packed into bytes, those beyond the second, and what stands around a scheme (a
    rotation, a residual of low rank) stay as they are.

    Attributes:
        tables: the tensors that train, by name.
        shape: of the weight.
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        option, self._restore = weight.option.core(weight.stored, weight.shape)
        layout = option.layout(weight.shape)
        weight = QuantizedWeight(option, weight.shape, {name: weight.stored[name] for name in layout})
        stored = weight.tensors()
        names = [
            name
            for name, tensor in stored.items()
            if name != "codes" and (tensor.dtype in _FLOATS or tensor.dtype == torch.int16)
        ][:_MOST_TABLES]
        self.shape = weight.shape
        self.tables = nn.ModuleDict({name: TrainableTensor(stored[name]) for name in names})
        self._terms: list[tuple[str, ...]] = []
        base = {name: torch.zeros_like(stored[name], dtype=torch.float32) for name in names}
        values: dict[tuple[str, ...], Tensor] = {}
        for term in _subsets(names):
            ones = {name: torch.ones_like(base[name]) for name in term}
            value = _dequantized(weight, stored | base | ones)
            for smaller in _subsets(term)[:-1]:
                value = value - values[smaller]
            values[term] = value
            self._terms.append(term)
            self.register_buffer(f"coefficient_{len(self._terms) - 1}", value, persistent=False)
        for name in names:
            self.register_buffer(f"index_{name}", _positions(weight, stored, base, name), persistent=False)

    def forward(self) -> Tensor:
        """The dequantized weight, float32, in its shape."""
        chosen = {
            name: table().flatten()[self.get_buffer(f"index_{name}")]
            for name, table in self.trained().items()
        }
        total = self.get_buffer("coefficient_0")
        for position, term in enumerate(self._terms[1:], start=1):
            part = self.get_buffer(f"coefficient_{position}")
            for name in term:
                part = part * chosen[name]
            total = total + part
        return self._restore(total.view(self.shape))

    def trained(self) -> dict[str, TrainableTensor]:
        """The tensors that train, by name."""
        return {name: cast(TrainableTensor, table) for name, table in self.tables.items()}


def _subsets(names: list[str] | tuple[str, ...]) -> list[tuple[str, ...]]:
    """All subsets, smaller ones first."""
    return [part for size in range(len(names) + 1) for part in itertools.combinations(names, size)]


def _dequantized(weight: QuantizedWeight, tensors: Mapping[str, Tensor]) -> Tensor:
    """What the scheme makes of other tables, float32 [numel]."""
    restored = QuantizedWeight(weight.option, weight.shape, dict(tensors))
    return restored.dequantize(torch.float32).flatten()


def _positions(
    weight: QuantizedWeight, stored: Mapping[str, Tensor], base: Mapping[str, Tensor], name: str
) -> Tensor:
    """Which entry of a table each element of the weight depends on, int64 [numel]; 0 where on none."""
    others = {other: torch.ones_like(table) * 0.5 for other, table in base.items() if other != name}
    count = base[name].numel()
    digits = torch.arange(count).view(base[name].shape)
    found = torch.zeros(weight.numel, dtype=torch.int64)
    zeros = _dequantized(weight, {**stored, **others, name: base[name]})
    ones = _dequantized(weight, {**stored, **others, name: torch.ones_like(base[name])})
    slope = ones - zeros
    for place in (1, 1000, 1000**2):  # digit by digit, exact in float32
        if place >= max(count, 2):
            break
        digit = (digits // place % 1000).float()
        seen = _dequantized(weight, {**stored, **others, name: digit}) - zeros
        found += place * torch.where(slope.abs() > 0, (seen / slope).round(), 0.0).long()
    return found.clamp_(0, count - 1)
