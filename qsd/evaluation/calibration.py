"""Ranges of layers' inputs over a few full-precision images, for activation options that need them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qsd.bank.activations import ActivationTable, channel_axis
from qsd.denoisers.layers import STACK, WeightLayer
from qsd.evaluation.generate import Generator
from qsd.evaluation.settings import EvaluationSettings
from qsd.quantizers.activations import ActivationOption, Ranges

CALIBRATION_IMAGES = 8


def calibrate(
    pipe: Any,
    denoiser: nn.Module,
    layers: Sequence[WeightLayer],
    options: Sequence[ActivationOption],
    settings: EvaluationSettings,
    num_images: int = CALIBRATION_IMAGES,
) -> ActivationTable:
    """The activation table of a pipeline; draws images only if an option needs ranges.

    Args:
        pipe: at full precision.
        denoiser: that of the pipeline whose inputs are watched.
        layers: its weight layers.
        options: activation options.
        settings: how to draw; the first ``num_images`` prompts and their own noise.
        num_images: images that ranges are taken from.
    """
    if not any(option.needs_ranges for option in options):
        return ActivationTable(tuple(options))
    few = dataclasses.replace(settings, num_images=min(num_images, settings.num_images))
    ranges: dict[str, Ranges] = {}
    handles = []
    for layer in layers:
        if layer.kind == STACK:  # whose inputs no hook sees
            continue
        for path in (layer.module, *layer.tied):
            module = denoiser.get_submodule(path)
            handles.append(module.register_forward_pre_hook(_watching(layer, ranges)))
    try:
        for _ in Generator(pipe, few).batches(few.noise_seed):
            pass
    finally:
        for handle in handles:
            handle.remove()
    return ActivationTable(tuple(options), ranges)


def _watching(layer: WeightLayer, ranges: dict[str, Ranges]) -> Callable[[nn.Module, Any], None]:
    segment = slice(*layer.segment) if layer.segment else slice(None)

    @torch.no_grad()
    def hook(module: nn.Module, args: Any) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        seen = Ranges.of(
            args[0].movedim(channel_axis(module), -1)[..., segment],
            weight[:, segment] if layer.segment else weight,
        )
        ranges[layer.name] = ranges[layer.name].merged(seen) if layer.name in ranges else seen

    return hook
