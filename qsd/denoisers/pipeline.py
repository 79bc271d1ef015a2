"""Loads a diffusers pipeline."""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import nn

from qsd.denoisers.checkpoint import only_variant
from qsd.denoisers.components import denoisers_of
from qsd.denoisers.decoders import DECODERS
from qsd.denoisers.encoders import text_encoders, withhold
from qsd.denoisers.layers import tie_equal_weights
from qsd.denoisers.safe_decoder import keep_safe
from qsd.denoisers.single_file import load_single_file
from qsd.support.errors import QsdError, first_line
from qsd.support.packages import missing_package
from qsd.support.paths import find
from qsd.support.quiet import quiet

DtypeName = Literal["float32", "bfloat16", "float16"]


def load_pipeline(
    pipeline: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | DtypeName = torch.float32,
    variant: str | None = None,
    config: str | Path | None = None,
    encoders: bool = True,
) -> DiffusionPipeline:
    """Opens a diffusers pipeline.

    Args:
        pipeline: a local folder, the name of a shipped one (``checkpoints/digits-pixart-alpha``), a hub
            id (``PixArt-alpha/PixArt-XL-2-512x512``), or a single-file checkpoint (``.safetensors``).
        device: where it runs.
        dtype: of all floating-point weights. Image autoencoders stay in float32, which is safe for all of
            them; they are given and give what the pipeline computes with.
        variant: part of the names of weight files, such as fp16; by default the files without one, or the
            only variant that a folder has.
        config: of a single-file checkpoint, the pipeline folder (or hub id) that describes it; by default
            the folder in which the file lies.
        encoders: whether text encoders are loaded at once; else when prompts are to be encoded that no
            earlier run has encoded, and dropped afterwards (:mod:`qsd.evaluation.embeddings`).

    Returns:
        The pipeline in evaluation mode, with its own progress bar switched off. Equal weights of its denoiser
        are tied, see :func:`qsd.denoisers.tie_equal_weights`.

    Raises:
        QsdError: there is no such pipeline, it is damaged, or it has no denoiser.
    """
    check_device(device)
    wanted = dtype_of(dtype)
    try:
        folder: str | Path = find(pipeline)
    except QsdError:
        folder = str(pipeline)  # diffusers may know it as a hub id
    withheld: dict[str, None] = {}
    try:
        with quiet():
            if Path(folder).is_file():
                pipe = load_single_file(Path(folder), config, wanted)
            else:
                variant = variant or only_variant(Path(folder))
                if not encoders:
                    withheld = dict.fromkeys(text_encoders(folder))
                types = {"default": wanted, **dict.fromkeys(DECODERS, torch.float32)}
                pipe = DiffusionPipeline.from_pretrained(folder, dtype=types, variant=variant, **withheld)
    except QsdError:
        raise
    except NameError as error:  # diffusers leaves out imports of packages that are not there
        raise QsdError(f"{pipeline}: {first_line(error)}; `pip install {missing_package(error)}`") from error
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
    keep_safe(pipe, wanted)
    if withheld:
        withhold(pipe, Path(folder), tuple(withheld), wanted, variant)
    return pipe.to(device)


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point type by its name.

    Raises:
        QsdError: there is none of that name.
    """
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise QsdError(f"--dtype {dtype}: torch has no such type; use float32, bfloat16 or float16")
    return found


def check_device(named: str | torch.device) -> None:
    """Refuses a device that is not there.

    Raises:
        QsdError: PyTorch knows no such device, or finds none here.
    """
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
