"""Runtime layers: Linear and convolutions on packed codes, dequantized into a shared buffer when used."""

import math
import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qsd.runtime.lazy import LazyWeight
from qsd.runtime.packed import PackedParts
from qsd.support.errors import QsdError

EDITED = (
    "the weight of a quantized layer was edited in place (a fused LoRA, for example): such layers now hold a "
    "dense copy with the edit; qsd.discard_edits(model) takes the packed weights back"
)

_scratch = threading.local()


class QuantizedLayer(nn.Module):
    """Replaces the parameter ``weight`` by packed parts, joined along the input channels when read.

    The rest of the layer (forward, bias, padding, hooks) is that of the torch class it is mixed into.

    Attributes:
        packed: the stored form; tied layers share one.
        shape: of the weight.
        dtype: of ``weight``, and so of the computation.
        needs_dense: whether a forward dequantizes the weight, as a rule.
    """

    needs_dense: ClassVar[bool] = True
    packed: PackedParts
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __new__(cls, *arguments: Any, **settings: Any) -> Any:
        """A layer made anew, as adapters do by ``type(layer)(...)``, is one of torch's own class."""
        if arguments or settings:
            return FULL_CLASSES[cls](*arguments, **settings)
        return super().__new__(cls)  # what copying does

    @property
    def weight(self) -> Tensor:
        """The weight as a tensor that is dequantized when it is read; in-place edits of it count."""
        if torch.compiler.is_compiling():
            return self.read()
        return LazyWeight(self, torch.empty(self.shape, dtype=self.dtype, device="meta"))

    @property
    def weight_device(self) -> torch.device:
        """Where the weight is."""
        if self.packed.edited is not None:
            return self.packed.edited.device
        return next(self.packed[0].parameters()).device

    def read(self) -> Tensor:
        """The dense weight, in memory of its own unless it was edited."""
        if self.packed.edited is not None:
            return self.packed.edited.to(self.dtype)
        parts = [part(self.dtype) for part in self.packed]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def edit(self, value: Tensor | None = None) -> Tensor:
        """Memory that the layer computes with from now on.

        Args:
            value: what it holds; by default the weight as it is.

        Raises:
            QsdError: the value has another shape.
        """
        if value is not None and tuple(value.shape) != self.shape:
            raise QsdError(f"a weight of shape {self.shape} cannot become one of {tuple(value.shape)}")
        if self.packed.edited is None or value is not None:
            if self.packed.edited is None:
                warnings.warn(EDITED, stacklevel=2)
            with torch.inference_mode(False), torch.no_grad():
                new = (self.read() if value is None else value.to(self.weight_device, self.dtype)).clone()
                self.packed.edited, self.packed.kept = new, None
        return self.packed.edited

    def dense(self, inputs: Tensor) -> Tensor:
        """The weight for one forward: kept, edited, or dequantized into a buffer that all layers share."""
        parts = self.packed
        if parts.edited is not None:
            return self.read()
        if parts.kept is not None:
            if parts.kept.dtype != self.dtype or parts.kept.device != inputs.device:
                parts.kept = self._renewed()
            return parts.kept
        if (
            torch.compiler.is_compiling()
            or inputs.device.type != "cpu"  # kernels run later there, and its allocator keeps memory
            or (torch.is_grad_enabled() and self._has_backward(inputs))  # which reads the weight again
        ):
            return self.read()
        whole = _shared(self.dtype, math.prod(self.shape), 0)
        if len(parts) == 1:
            return parts[0](self.dtype, whole).view(self.shape)
        pieces = [
            part(self.dtype, _shared(self.dtype, math.prod(part.shape), slot)).view(part.shape)
            for slot, part in enumerate(parts.weights(), start=1)
        ]
        return torch.cat(pieces, dim=1, out=whole.view(self.shape))

    @torch.inference_mode(False)
    def _renewed(self) -> Tensor:
        """What the cache holds after the model was moved or cast."""
        with torch.no_grad():
            return self.read()

    def _has_backward(self, inputs: Tensor) -> bool:
        bias: Any = getattr(self, "bias", None)
        return inputs.requires_grad or (bias is not None and bias.requires_grad)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            if not isinstance(value, Tensor):
                raise QsdError(f"a weight is a tensor, not {value!r}; layer.weight.zero_() makes it 0")
            self.edit(value)
        else:
            super().__setattr__(name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The weight of a dense checkpoint counts as an edit; the packed parts stay."""
        if (weight := state_dict.pop(f"{prefix}weight", None)) is not None:
            self.edit(weight)
            state_dict |= self.packed.state_dict(prefix=f"{prefix}packed.")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLayer":
        dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        if dtype.itemsize > self.dtype.itemsize:
            self.packed.kept = None  # it would outgrow its budget
        self.dtype = dtype
        return super()._apply(fn, recurse)


class QuantizedLinear(QuantizedLayer, nn.Linear):  # type: ignore[override]
    """A Linear layer on packed codes."""

    def forward(self, input: Tensor) -> Tensor:
        """As of :class:`torch.nn.Linear`."""
        return nn.functional.linear(input, self.dense(input), self.bias)


class _QuantizedConvolution(QuantizedLayer):
    def forward(self, input: Tensor) -> Tensor:
        """As of torch's class."""
        return self._conv_forward(input, self.dense(input), self.bias)  # type: ignore[operator]


class QuantizedConv1d(_QuantizedConvolution, nn.Conv1d):  # type: ignore[override]
    """A Conv1d layer on packed codes."""


class QuantizedConv2d(_QuantizedConvolution, nn.Conv2d):  # type: ignore[override]
    """A Conv2d layer on packed codes."""


class QuantizedConv3d(_QuantizedConvolution, nn.Conv3d):  # type: ignore[override]
    """A Conv3d layer on packed codes."""


class QuantizedConvTranspose1d(QuantizedLayer, nn.ConvTranspose1d):  # type: ignore[override]
    """A ConvTranspose1d layer on packed codes, with torch's forward."""


class QuantizedConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):  # type: ignore[override]
    """A ConvTranspose2d layer on packed codes, with torch's forward."""


class QuantizedConvTranspose3d(QuantizedLayer, nn.ConvTranspose3d):  # type: ignore[override]
    """A ConvTranspose3d layer on packed codes, with torch's forward."""


RUNTIME_CLASSES: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.ConvTranspose1d: QuantizedConvTranspose1d,
    nn.ConvTranspose2d: QuantizedConvTranspose2d,
    nn.ConvTranspose3d: QuantizedConvTranspose3d,
}
FULL_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    quantized: full for full, quantized in RUNTIME_CLASSES.items()
}


def _shared(dtype: torch.dtype, count: int, slot: int) -> Tensor:
    """The thread's buffer for ``count`` values; what it held before is lost."""
    if not hasattr(_scratch, "buffers"):
        _scratch.buffers = {}
    buffers: dict[tuple[torch.dtype, int], Tensor] = _scratch.buffers
    buffer = buffers.get((dtype, slot))
    if buffer is None or buffer.numel() < count:
        with torch.inference_mode(False):  # to be used outside of it too
            buffers[dtype, slot] = buffer = torch.empty(count, dtype=dtype)
    return buffer[:count]


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """All runtime layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def check_supported(module: nn.Module, name: str) -> None:
    """Refuses a module for which there is no runtime layer.

    Raises:
        QsdError: the module is no Linear and no convolution (subclasses may compute otherwise).
    """
    if type(module) not in RUNTIME_CLASSES:
        supported = ", ".join(cls.__name__ for cls in RUNTIME_CLASSES)
        raise QsdError(
            f"layer '{name}' is a {type(module).__name__}, which has no quantized form (there is one for "
            f"{supported}); leave this layer at full precision"
        )


def pack_module(module: nn.Module, packed: PackedParts, dtype: torch.dtype) -> None:
    """Turns a full-precision layer into its runtime form, in place; bias, settings and hooks stay.

    Args:
        module: a layer that :func:`check_supported` accepts.
        packed: its weight; tied layers are given the same one.
        dtype: dtype to compute in.
    """
    shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    del module.weight
    module.__class__ = RUNTIME_CLASSES[type(module)]
    module.packed = packed
    module.shape, module.dtype = shape, dtype  # type: ignore[assignment]


def unpack_modules(model: nn.Module) -> None:
    """Turns all runtime layers of a model back into full-precision layers that hold dequantized weights."""
    weights: dict[int, nn.Parameter] = {}  # layers that share their parts shall share the parameter
    layers: list[Any] = list(quantized_layers(model).values())
    for layer in layers:
        if id(layer.packed) not in weights:
            weights[id(layer.packed)] = nn.Parameter(layer.read(), requires_grad=False)
    for layer in layers:
        weight = weights[id(layer.packed)]
        del layer.packed, layer.shape, layer.dtype
        layer.__class__ = FULL_CLASSES[type(layer)]
        layer.weight = weight
