"""Loads a diffusers pipeline and says which denoiser it has."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from qsd.denoisers.components import denoisers_of
from qsd.denoisers.layers import tie_equal_weights
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find
from qsd.support.quiet import quiet


def load_pipeline(
    pipeline: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusionPipeline:
    """Opens a diffusers pipeline.

    Args:
        pipeline: a local folder, the name of a shipped one (``checkpoints/digits-pixart-alpha``), or a hub
            id (``PixArt-alpha/PixArt-XL-2-512x512``).
        device: where it runs.
        dtype: of all floating-point weights.

    Returns:
        The pipeline in evaluation mode, with its own progress bar switched off. Equal weights of its denoiser
        are tied, see :func:`qsd.denoisers.tie_equal_weights`.

    Raises:
        QsdError: there is no such pipeline, it is damaged, or it has no denoiser.
    """
    _check_device(device)
    try:
        folder: str | Path = find(pipeline)
    except QsdError:
        folder = str(pipeline)  # diffusers may know it as a hub id
    try:
        with quiet():
            pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
    except Exception as error:  # diffusers raises many kinds; all mean "cannot open"
        raise QsdError(
            f"{pipeline}: cannot be opened as a diffusers pipeline ({first_line(error)}); "
            "give a folder with model_index.json or a hub id"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.eval().requires_grad_(False)
    for denoiser in denoisers_of(pipe).values():
        tie_equal_weights(denoiser)
    return pipe.to(device)


def _check_device(named: str | torch.device) -> None:
    try:
        device = torch.device(named)
    except RuntimeError as error:
        raise QsdError(f"device {named}: PyTorch knows none of that name; take cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise QsdError(f"device {device}: PyTorch finds no CUDA device here; leave --device out or take cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise QsdError(
            f"device {device}: there are {torch.cuda.device_count()}, counted from 0; take another"
        )


def keep_class_names(pipe: Any) -> None:
    """Makes a pipeline save its names of classes: ``DiTPipeline`` reads them from its configuration only."""
    labels: dict[str, int] = getattr(pipe, "labels", None) or {}
    names: dict[int, list[str]] = {}
    for name, index in labels.items():
        names.setdefault(index, []).append(name)
    if names:
        pipe.register_to_config(id2label={index: ", ".join(names[index]) for index in sorted(names)})
