"""Single-file checkpoints: a whole pipeline, or its denoiser alone, in one safetensors file."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from qsd.support.errors import QsdError
from qsd.support.paths import find

_OTHER_PARTS = ("first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.")
"""How names of tensors begin that are no denoiser's."""


def load_single_file(path: Path, config: str | Path | None, dtype: torch.dtype) -> Any:
    """Opens a single-file checkpoint.

    Args:
        path: the file.
        config: the pipeline folder, or hub id, that says what the file holds; by default the folder in which
            it lies. A file of a denoiser alone takes everything else from there.
        dtype: of the weights.

    Raises:
        QsdError: nothing says what the file holds.
    """
    if config is None and not (path.parent / "model_index.json").is_file():
        raise QsdError(
            f"{path}: a single file does not say what pipeline it is of; lay it into a folder with that "
            f"pipeline's model_index.json and configs, or `qsd.load_pipeline({str(path)!r}, config=FOLDER)`"
        )
    try:
        folder = str(path.parent if config is None else find(config))
    except QsdError:
        folder = str(config)  # a hub id
    with safe_open(path, "pt") as file:
        is_whole = any(name.startswith(_OTHER_PARTS) for name in file.keys())  # noqa: SIM118
    if is_whole:
        cls: Any = getattr(diffusers, DiffusionPipeline.load_config(folder)["_class_name"])
        return cls.from_single_file(str(path), config=folder, dtype=dtype)
    index = DiffusionPipeline.load_config(folder)
    name = next((name for name in ("transformer", "unet", "prior", "decoder") if index.get(name)), None)
    if name is None:
        raise QsdError(f"{folder}: names no transformer or unet that {path} could hold")
    denoiser_class: Any = getattr(diffusers, index[name][1])
    denoiser = denoiser_class.from_single_file(str(path), config=folder, subfolder=name, dtype=dtype)
    pipe: Any = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **{name: denoiser})
    return pipe
