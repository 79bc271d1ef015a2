"""The stored tensors of one quantized weight as a module that makes the dense weight."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qsd.quantizers import Option, QuantizedWeight

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}

_library = torch.library.Library("qsd", "FRAGMENT")
_library.define(
    "dequantize(Tensor[] stored, str[] names, str[] dtypes, str option, int[] shape, ScalarType dtype)"
    " -> Tensor"
)


class Bits(nn.Parameter):
    """Stored bits, as an integer parameter, because parameters are what offloading moves; never trained."""

    def __new__(cls, data: Tensor, requires_grad: bool = False) -> "Bits":
        """Takes over integers."""
        return super().__new__(cls, data, False)

    def requires_grad_(self, requires_grad: bool = True) -> "Bits":
        """Stays as it is when a whole model is (un)frozen."""
        return self


class PackedWeight(nn.Module):
    """The stored tensors of one quantized weight, or of one segment of it.

    Parameters are named as :meth:`QuantizedWeight.tensors` names tensors, and hold the bits of floating-point
    tables as integers: whatever casts a model (``.to``, ``.half()``, offloading, layerwise casting) leaves
    integers alone, and a scale rounded to another type would be another scale.

    Attributes:
        option: how the weight is stored.
        shape: of the weight.
        stored_dtypes: name of a tensor -> the type that its bits stand for, as ``float16``.
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        """Takes over the tensors of ``weight`` without a copy."""
        super().__init__()
        self.option, self.shape = weight.option, weight.shape
        self.stored_dtypes: dict[str, str] = {}
        for name, tensor in weight.tensors().items():
            self.stored_dtypes[name] = str(tensor.dtype).removeprefix("torch.")
            self.register_parameter(name, Bits(bits_of(tensor)))

    def stored(self) -> dict[str, Tensor]:
        """The tensors of the weight, in the types that files hold."""
        return {
            name: self.get_parameter(name).detach().view(getattr(torch, dtype))
            for name, dtype in self.stored_dtypes.items()
        }

    def quantized(self) -> QuantizedWeight:
        """The weight that the bits stand for.

        Raises:
            QsdError: a tensor has another size or type than option and shape ask for.
        """
        return QuantizedWeight.from_tensors(self.option, self.shape, self.stored())

    def forward(self, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """The dense weight.

        It is a module's forward so that the hooks of offloading bring the bits to where they are needed.

        Args:
            dtype: of the result.
            out: as :meth:`QuantizedWeight.dequantize` takes it; ignored in compiled graphs.
        """
        if torch.compiler.is_compiling():
            names = list(self.stored_dtypes)
            return torch.ops.qsd.dequantize(
                [getattr(self, name) for name in names],
                names,
                [self.stored_dtypes[name] for name in names],
                str(self.option),
                self.shape,
                dtype,
            )
        return QuantizedWeight(self.option, self.shape, self.stored()).dequantize(dtype, out)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedWeight":
        """The order of bits in memory stays, whatever the memory format (``channels_last``) of the model."""
        super()._apply(fn, recurse)
        for bits in self.parameters():
            bits.data = bits.data.contiguous()
        return self

    def extra_repr(self) -> str:
        """Option and shape."""
        return f"{self.option}, shape={self.shape}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes tensors of files, in their own types, and those of :meth:`state_dict`, which are bits."""
        for name in self.stored_dtypes:
            tensor = state_dict.get(prefix + name)
            if tensor is not None:
                if tensor.is_floating_point():
                    self.stored_dtypes[name] = str(tensor.dtype).removeprefix("torch.")
                state_dict[prefix + name] = Bits(bits_of(tensor.detach()))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class PackedParts(nn.ModuleList):
    """The parts of one weight along its input channels: one, or one per segment. Tied layers share them.

    Attributes:
        edited: a dense copy that counts instead of the parts since somebody wrote into it, or None.
        kept: the dense weight between calls, if :func:`qsd.cache_weights` chose it, or None.
    """

    edited: Tensor | None
    kept: Tensor | None

    def __init__(self, weights: Iterable[QuantizedWeight]) -> None:
        """Takes over the tensors of the weights without a copy."""
        super().__init__(PackedWeight(weight) for weight in weights)
        self.register_buffer("edited", None, persistent=False)
        self.kept = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """An edit goes along, and is no persistent buffer, which offloading would take away."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.edited is not None:
            destination[prefix + "edited"] = self.edited

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """What is loaded counts: neither an earlier edit nor the cache outlives it."""
        edited = state_dict.pop(prefix + "edited", None)
        if edited is not None or any(key.startswith(prefix) for key in state_dict):
            device = next(self.parameters()).device
            self.edited = None if edited is None else edited.detach().to(device, copy=True)
            self.kept = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def weights(self) -> list[PackedWeight]:
        """The parts."""
        return [part for part in self if isinstance(part, PackedWeight)]


def bits_of(tensor: Tensor) -> Tensor:
    """The same memory as integers, if it holds floating-point numbers."""
    return tensor.view(_INTEGERS[tensor.element_size()]) if tensor.is_floating_point() else tensor


_parse = functools.cache(Option.parse)


def _dequantize(
    stored: list[Tensor],
    names: list[str],
    dtypes: list[str],
    option: str,
    shape: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """One node of a compiled graph, whatever the scheme does inside."""
    tensors = {
        name: tensor.view(getattr(torch, kind))
        for name, tensor, kind in zip(names, stored, dtypes, strict=True)
    }
    return QuantizedWeight(_parse(option), tuple(shape), tensors).dequantize(dtype)


def _dense_like(stored: list[Tensor], *settings: Any) -> Tensor:
    *_rest, shape, dtype = settings
    return stored[0].new_empty(shape, dtype=dtype)


_library.impl("dequantize", _dequantize, "CompositeExplicitAutograd")
torch.library.register_fake("qsd::dequantize", _dense_like, lib=_library)
