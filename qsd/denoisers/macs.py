"""Multiply-accumulates of every weight layer in one forward pass, from shapes alone."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from qsd.denoisers.exporting import weightless_copy
from qsd.denoisers.layers import WeightLayer, kind_of, weight_at
from qsd.support.errors import first_line
from qsd.support.quiet import unreported

_log = logging.getLogger(__name__)


def with_macs(
    denoiser: nn.Module, layers: Sequence[WeightLayer], inputs: Mapping[str, Any]
) -> list[WeightLayer]:
    """The layers, each with its multiply-accumulates in one forward pass of one image.

    A layer that is used several times, or by several tied modules, counts each use. A segment has the share
    of its input channels. The pass runs on shapes without values; only where the forward asks for values
    (indices that a mask has), it runs on the denoiser itself.

    Args:
        denoiser: any diffusers denoiser.
        layers: its weight layers.
        inputs: keyword arguments of its forward.

    Returns:
        Layers in their order; all with 0, and a warning, if the forward fails, or asks for values that are
        not there.
    """
    try:
        counts = _of_shapes(denoiser, inputs)
    except Exception as error:  # whatever a forward raises on shapes without values
        try:
            counts = _of_values(denoiser, inputs)
        except Exception:  # of the same reason
            _log.warning(
                "multiply-accumulates of %s are not counted, so activations have no budgets (%s)",
                type(denoiser).__name__,
                first_line(error),
            )
            return list(layers)
    found = []
    for layer in layers:
        used = sum(counts.get(path, 0) for path in (layer.module, *layer.tied))
        share = math.prod(layer.shape) / weight_at(denoiser, layer.module).numel()
        found.append(dataclasses.replace(layer, macs=round(used * share)))
    return found


def _of_shapes(denoiser: nn.Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copied = weightless_copy(denoiser, mode)
    with mode:
        return _count(copied, tree_map_only(torch.Tensor, _shape_alone, dict(inputs)))


def _of_values(denoiser: nn.Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    device = next(denoiser.parameters()).device
    if device.type == "meta":
        raise ValueError("weights without values")
    return _count(denoiser, tree_map_only(torch.Tensor, lambda t: t.to(device, copy=True), dict(inputs)))


def _count(denoiser: nn.Module, inputs: dict[str, Any]) -> dict[str, int]:
    """Multiply-accumulates by module path, of a batch divided by its size."""
    counts: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for path, module in denoiser.named_modules():
            weight = getattr(module, "weight", None)
            if kind_of(module) is not None and isinstance(weight, Tensor):
                counts.setdefault(path, 0)
                stack.callback(module.register_forward_hook(_counting(path, counts)).remove)
        with torch.no_grad(), unreported():
            denoiser(**inputs)
    batch = next((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim > 1), 1)
    return {path: count // batch for path, count in counts.items()}


def _shape_alone(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor


def _counting(path: str, counts: dict[str, int]) -> Any:
    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        sums = inputs[0] if "Transpose" in type(module).__name__ else output
        counts[path] += sums.numel() * (module.weight.numel() // module.weight.shape[0])

    return hook
