"""Packed Linear layers that multiply 8-bit floats: inputs rounded token by token, weights as they are stored.

Every token x becomes e4m3 codes a, x = step * a, its largest magnitude becoming the largest float of the
type; the stored weight is scale * w. ``torch._scaled_mm`` multiplies a and w; step and scale are applied to
its float32 result, so that one call serves weights with one scale and with one by row. Bits, state and
exports stay as they were.
"""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qsd.runtime.layers import FULL_CLASSES, QuantizedLinear, quantized_layers
from qsd.runtime.offloading import is_wrapped
from qsd.support.errors import QsdError

_TYPE = torch.float8_e4m3fn
_MULTIPLE = 16  # of both sizes of a weight, for torch._scaled_mm
_CAPABILITY = (8, 9)


@dataclasses.dataclass(frozen=True)
class Fp8Layers:
    """What :func:`use_fp8` did.

    Attributes:
        replaced: names of the layers that multiply 8-bit floats.
        left: name of another layer stored in 8-bit floats -> why it still dequantizes.
    """

    replaced: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        first = next((f" ('{name}': {reason})" for name, reason in self.left.items()), "")
        return f"{len(self.replaced)} layers multiply 8-bit floats, {len(self.left)} dequantize{first}"


class Fp8Linear(QuantizedLinear):
    """A Linear layer on e4m3 weights whose input is rounded to e4m3, token by token.

    It dequantizes, as other packed layers do, where the product cannot serve: under a gradient, with an
    edited weight, in compiled graphs, and where weight and input are on two devices (offloading). A cache of
    dense weights (:func:`qsd.cache_weights`) leaves it out.
    """

    needs_dense = False

    def forward(self, input: Tensor) -> Tensor:
        """Float [..., I] to float [..., O] of the same dtype."""
        if not self._can_multiply(input):
            return super().forward(input)
        (part,) = self.packed.weights()
        stored = part.stored()
        codes, step = round_rows(input.detach().reshape(-1, self.in_features))
        one = torch.ones((), device=input.device)
        weight = stored["weight"].view(self.shape).T
        product = torch._scaled_mm(codes, weight, scale_a=one, scale_b=one, out_dtype=torch.float32)
        out = product * step * stored["scale"]
        if self.bias is not None:
            out = out + self.bias.float()
        return out.to(input.dtype).view(*input.shape[:-1], self.out_features)

    def _can_multiply(self, inputs: Tensor) -> bool:
        return not (
            torch.compiler.is_compiling()
            or self.packed.edited is not None
            or self.weight_device != inputs.device
            or inputs.numel() == 0
            or (torch.is_grad_enabled() and self._has_backward(inputs))
        )


FULL_CLASSES[Fp8Linear] = nn.Linear


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Float [M, I] to e4m3 codes [M, I] and float32 steps [M, 1]; rows with NaN or infinity become NaN."""
    values = rows.float()
    limit = torch.finfo(_TYPE).max
    step = (values.abs().amax(dim=1, keepdim=True) / limit).clamp_min(torch.finfo(torch.float32).tiny)
    return (values / step).clamp_(-limit, limit).to(_TYPE), step


def use_fp8(model: nn.Module, layers: Iterable[str] | None = None) -> Fp8Layers:
    """Lets packed Linear layers stored as ``fp8_e4m3`` multiply 8-bit floats, in place.

    Args:
        model: with packed layers, on the device that it will run on.
        layers: names of layers that must; by default all that can.

    Returns:
        Layers that do from now on, and those in 8-bit floats that do not, with the reason.

    Raises:
        QsdError: a layer of ``layers`` cannot; nothing was changed then.
    """
    packed = quantized_layers(model)
    names = list(packed) if layers is None else [layers] if isinstance(layers, str) else list(layers)
    reasons = {name: _obstacle(packed.get(name)) for name in names}
    for name, reason in reasons.items():
        if layers is not None and reason:
            raise QsdError(f"use_fp8: layer '{name}' {reason}; leave it out of `layers`")
    replaced = [name for name, reason in reasons.items() if not reason]
    for name in replaced:
        packed[name].__class__ = Fp8Linear
        packed[name].packed.kept = None
    left = {name: why for name, why in reasons.items() if why and _is_float8(packed[name])}
    return Fp8Layers(replaced, left)


def discard_fp8(model: nn.Module) -> None:
    """Undoes :func:`use_fp8`: all packed layers dequantize again."""
    layers: list[nn.Module] = list(quantized_layers(model).values())
    for layer in layers:
        if isinstance(layer, Fp8Linear):
            setattr(layer, "__class__", QuantizedLinear)  # noqa: B010


def _is_float8(layer: nn.Module) -> bool:
    packed = getattr(layer, "packed", None)
    return packed is not None and any(
        str(part.option).partition(":")[0] == "fp8_e4m3" for part in packed.weights()
    )


def _obstacle(layer: nn.Module | None) -> str:
    """Why a layer cannot multiply 8-bit floats; empty if it can."""
    if layer is None or not _is_float8(layer):
        return "is no packed layer stored as fp8_e4m3"
    if not isinstance(layer, QuantizedLinear):
        return "is no Linear layer"
    if len(layer.packed) > 1:
        return "has segments"
    if is_wrapped(layer):
        return "is offloaded or cast by hooks; call use_fp8 before"
    if any(size % _MULTIPLE for size in layer.shape):
        return f"has sizes {layer.shape} that are no multiples of {_MULTIPLE}"
    device = layer.weight_device
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) < _CAPABILITY:
            return "is on a GPU without 8-bit floats (compute capability below 8.9)"
    elif device.type != "cpu":
        return f"is on '{device.type}', which has no product of 8-bit floats here"
    return "" if _has_product(device) else "needs a torch whose _scaled_mm runs on this device"


def _has_product(device: torch.device) -> bool:
    one, codes = torch.ones((), device=device), torch.zeros(16, 16, device=device).to(_TYPE)
    try:
        torch._scaled_mm(codes, codes.T, scale_a=one, scale_b=one, out_dtype=torch.float32)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True
