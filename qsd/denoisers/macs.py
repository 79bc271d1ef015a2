"""Multiply-accumulates of every weight layer in one forward pass, from shapes alone."""

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
    of its input channels. The pass runs on shapes without values.

    Args:
        denoiser: any diffusers denoiser.
        layers: its weight layers.
        inputs: keyword arguments of its forward.

    Returns:
        Layers in their order; all with 0, and a warning, if the forward needs values where it gets shapes.
    """
    try:
        counts = _count(denoiser, inputs)
    except Exception as error:  # whatever a forward raises on shapes without values
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


def _count(denoiser: nn.Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-accumulates by module path, of a batch divided by its size."""
    counts: dict[str, int] = {}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copied = weightless_copy(denoiser, mode)
    with mode:
        shaped = tree_map_only(torch.Tensor, _shape_alone, dict(inputs))
    for path, module in copied.named_modules():
        weight = getattr(module, "weight", None)
        if kind_of(module) is not None and isinstance(weight, Tensor):
            counts.setdefault(path, 0)
            module.register_forward_hook(_counting(path, counts))
    with mode, torch.no_grad(), unreported():
        copied(**shaped)
    batch = next((len(value) for value in shaped.values() if isinstance(value, Tensor) and value.ndim > 1), 1)
    return {path: count // batch for path, count in counts.items()}


def _shape_alone(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor


def _counting(path: str, counts: dict[str, int]) -> Any:
    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        sums = inputs[0] if "Transpose" in type(module).__name__ else output
        counts[path] += sums.numel() * (module.weight.numel() // module.weight.shape[0])

    return hook
