"""Runtime layers: Linear and convolutions that hold packed codes and dequantize when they are used."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qsd.quantizers import QuantizedWeight
from qsd.support.errors import QsdError

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


class PackedWeight(nn.Module):
    """The buffers of one quantized weight, or of one segment of it.

    Buffers are named as :meth:`QuantizedWeight.tensors` names them. They keep the type in which they were
    stored whatever dtype the model is cast to, because a scale rounded to another type is another scale.

    Attributes:
        option: method and bits.
        shape: shape of the weight.
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        """Takes over the tensors of ``weight`` without a copy."""
        super().__init__()
        self.option, self.shape = weight.option, weight.shape
        for name, tensor in weight.tensors().items():
            self.register_buffer(name, tensor)

    def quantized(self) -> QuantizedWeight:
        """The weight that the buffers hold.

        Raises:
            QsdError: a buffer has another size or type than option and shape ask for.
        """
        return QuantizedWeight.from_tensors(self.option, self.shape, dict(self.named_buffers()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedWeight":
        def move(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return fn(tensor)
            return fn(tensor.view(_INTEGERS[tensor.itemsize])).view(tensor.dtype)  # moved but never cast

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        """Option and shape."""
        return f"{self.option}, shape={self.shape}"


class _Quantized(nn.Module):
    """Replaces the parameter ``weight`` by packed parts, joined along the input channels when read.

    The rest of the layer (forward, bias, padding, hooks) is that of the torch class it is mixed into.

    Attributes:
        packed: module list of one :class:`PackedWeight`, or of one per segment of the input channels.
        dtype: dtype of ``weight``, and so of the computation.
    """

    packed: Iterable[PackedWeight]
    dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, made anew at every access."""
        parts = [part.quantized().dequantize(self.dtype) for part in self.packed]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Quantized":
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)


class QuantizedLinear(_Quantized, nn.Linear):  # type: ignore[override]
    """A Linear layer on packed codes."""


class QuantizedConv1d(_Quantized, nn.Conv1d):  # type: ignore[override]
    """A Conv1d layer on packed codes."""


class QuantizedConv2d(_Quantized, nn.Conv2d):  # type: ignore[override]
    """A Conv2d layer on packed codes."""


class QuantizedConv3d(_Quantized, nn.Conv3d):  # type: ignore[override]
    """A Conv3d layer on packed codes."""


RUNTIME_CLASSES: dict[type[nn.Module], type[_Quantized]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
}
_FULL_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    quantized: full for full, quantized in RUNTIME_CLASSES.items()
}


def check_supported(module: nn.Module, name: str) -> None:
    """Refuses a module for which there is no runtime layer.

    Raises:
        QsdError: the module is none of Linear, Conv1d, Conv2d, Conv3d (subclasses may compute otherwise).
    """
    if type(module) not in RUNTIME_CLASSES:
        supported = ", ".join(cls.__name__ for cls in RUNTIME_CLASSES)
        raise QsdError(
            f"layer '{name}' is a {type(module).__name__}, which has no quantized form (there is one for "
            f"{supported}); leave this layer at full precision"
        )


def pack_module(module: nn.Module, packed: nn.ModuleList, dtype: torch.dtype) -> None:
    """Turns a full-precision layer into its runtime form, in place; bias, settings and hooks stay.

    Args:
        module: a layer that :func:`check_supported` accepts.
        packed: its :class:`PackedWeight` parts; tied layers are given the same list.
        dtype: dtype to compute in.
    """
    del module.weight
    module.__class__ = RUNTIME_CLASSES[type(module)]
    module.packed = packed
    module.dtype = dtype  # type: ignore[assignment]


def unpack_modules(model: nn.Module) -> None:
    """Turns all runtime layers of a model back into full-precision layers that hold dequantized weights."""
    weights: dict[int, nn.Parameter] = {}  # layers that share their parts shall share the parameter
    layers: list[Any] = [module for module in model.modules() if isinstance(module, _Quantized)]
    for layer in layers:
        parts = id(layer.packed)
        if parts not in weights:
            weights[parts] = nn.Parameter(layer.weight, requires_grad=False)
    for layer in layers:
        weight = weights[id(layer.packed)]
        del layer.packed, layer.dtype
        layer.__class__ = _FULL_CLASSES[type(layer)]
        layer.weight = weight
