"""Settings of small drawings, pictures to draw from, and what is drawn."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from support.tiny_pipelines import (
    PROMPTS,
    random_denoiser,
    tiny_clip,
    tiny_vae,
)

from qsd.evaluation.generate import Generator
from qsd.evaluation.settings import EvaluationSettings
from qsd.zoo.tokenizers import clip_tokenizer


def settings(
    folder: Path, *, prompts: bool = True, images: bool = False, **changes: Any
) -> EvaluationSettings:
    if prompts:
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    if images:
        pictures(folder / "pictures")
    base = EvaluationSettings(
        prompts=str(folder / "prompts.txt") if prompts else None,
        images=str(folder / "pictures") if images else None,
        num_images=2,
        steps=2,
        guidance=1.0,
        batch_size=2,
    )
    return dataclasses.replace(base, **changes)


def pictures(folder: Path, *, masks: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(0)
    for index in range(3):
        picture = Image.fromarray(values.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(folder / f"{index}.png")
        if masks:
            mask = Image.new("L", (16, 16), 0)
            mask.paste(255, (0, 0, 16, 8))
            mask.save(folder / f"{index}_mask.png")


def stable(cls: str, **unet: Any) -> Any:
    """A tiny Stable Diffusion of another pipeline class."""
    return getattr(diffusers, cls)(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(77),
        unet=random_denoiser("sd15", **unet),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latents(pipe: Any, chosen: EvaluationSettings) -> torch.Tensor:
    return torch.cat([drawn.latents for drawn in Generator(pipe, chosen).drawings(0)])
