"""Loads a diffusers pipeline and says which denoiser it has."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from qsd.denoisers.components import class_name, denoisers_of, num_parameters
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


def keep_class_names(pipe: Any) -> None:
    """Makes a pipeline save its names of classes: ``DiTPipeline`` reads them from its configuration only."""
    labels: dict[str, int] = getattr(pipe, "labels", None) or {}
    names: dict[int, list[str]] = {}
    for name, index in labels.items():
        names.setdefault(index, []).append(name)
    if names:
        pipe.register_to_config(id2label={index: ", ".join(names[index]) for index in sorted(names)})


def identity(denoiser: nn.Module) -> dict[str, Any]:
    """What makes a denoiser this one and no other.

    Args:
        denoiser: at full precision (no config applied).

    Returns:
        ``class`` and ``num_parameters``, and ``weights_hash``: BLAKE2 over all parameter names, shapes and
        values in float32, so that one checkpoint loaded as float16 or float32 has one identity.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(denoiser.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return {
        "class": class_name(denoiser),
        "num_parameters": num_parameters(denoiser),
        "weights_hash": digest.hexdigest(),
    }


def check_same_denoiser(expected: dict[str, Any], found: dict[str, Any], file: str | Path) -> None:
    """Refuses a file that was made for another denoiser.

    Raises:
        QsdError: the identities differ; names the file and both denoisers.
    """
    if expected != found:
        raise QsdError(
            f"{file}: made for {_describe(found)}, but this denoiser is {_describe(expected)}; "
            "use the file's own denoiser or make the file again"
        )


def _describe(denoiser: dict[str, Any]) -> str:
    return f"{denoiser.get('class')} with weights {str(denoiser.get('weights_hash'))[:8]}"
