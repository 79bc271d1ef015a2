"""Dense copies that packed layers hold on purpose: a cache within a budget, and edits taken back."""

import math

import torch
from torch import nn

from qsd.runtime.layers import QuantizedLayer, quantized_layers
from qsd.runtime.offloading import check_present
from qsd.support.errors import QsdError


def cache_weights(model: nn.Module, *, max_bytes: int | None = None) -> int:
    """Keeps dequantized weights in memory, so that their layers run as fast as at full precision.

    The largest layers come first: the time to dequantize a weight grows with its size, so every byte of the
    budget saves as much.

    Layers that multiply 8-bit floats (:func:`qsd.runtime.fp8.use_fp8`) need no dense weight and are left
    out. A cast to a wider type frees the weights of the cache, since they would outgrow the budget.

    Args:
        model: with packed layers.
        max_bytes: budget; None keeps all weights, 0 frees them.

    Returns:
        Bytes that the cache takes.

    Raises:
        QsdError: the budget is no number of bytes, or diffusers keeps the weights on the disk.
    """
    if not (max_bytes is None or (isinstance(max_bytes, int) and max_bytes >= 0)):
        raise QsdError(f"cache_weights: max_bytes {max_bytes!r} is no number of bytes, such as 2 * 2**30")
    check_present(model, "cache_weights", meta=True)
    by_parts: dict[int, QuantizedLayer] = {}  # tied ones once
    for layer in quantized_layers(model).values():
        layer.packed.kept = None
        if layer.needs_dense:
            by_parts[id(layer.packed)] = layer
    taken = 0
    for layer in sorted(by_parts.values(), key=_dense_bytes, reverse=True):
        fits = max_bytes is None or taken + _dense_bytes(layer) <= max_bytes
        if fits and layer.packed.edited is None:
            with torch.inference_mode(False), torch.no_grad():
                layer.packed.kept = layer.read()
            taken += _dense_bytes(layer)
    return taken


def discard_edits(model: nn.Module) -> list[str]:
    """Gives layers whose weight was edited in place (by a fused LoRA, for example) their packed weight back.

    Args:
        model: with packed layers.

    Returns:
        Names of these layers.
    """
    edited = [name for name, layer in quantized_layers(model).items() if layer.packed.edited is not None]
    for name in edited:
        model.get_submodule(name).packed.edited = None  # type: ignore[union-attr]
    return edited


def _dense_bytes(layer: QuantizedLayer) -> int:
    return math.prod(layer.shape) * layer.dtype.itemsize
