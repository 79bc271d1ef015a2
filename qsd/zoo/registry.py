"""The trainable things by name, and the one function that trains any of them."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.support.errors import QsdError
from qsd.support.paths import find
from qsd.support.progress import Progress
from qsd.support.yaml_files import read_yaml
from qsd.zoo.autoencoder import encode, to_pixels, train_autoencoder
from qsd.zoo.classifier import train_classifier
from qsd.zoo.clip import train_clip
from qsd.zoo.ddpm import DDPM
from qsd.zoo.diffusion import Miniature, train_denoiser
from qsd.zoo.digits import load_digits
from qsd.zoo.dit import DiT
from qsd.zoo.emoji.autoencoder import train_emoji_autoencoder
from qsd.zoo.emoji.classifier import train_emoji_classifier
from qsd.zoo.emoji.clip import train_emoji_clip
from qsd.zoo.emoji.flux import Flux
from qsd.zoo.emoji.sana import train_sana
from qsd.zoo.emoji.train import train_emoji
from qsd.zoo.emoji.wan import train_wan
from qsd.zoo.folders import write_folder
from qsd.zoo.hunyuan_dit import HunyuanDiT
from qsd.zoo.pixart_alpha import PixArtAlpha
from qsd.zoo.pixart_sigma import PixArtSigma
from qsd.zoo.pretrained import pretrained
from qsd.zoo.quality import measure_quality
from qsd.zoo.sd15 import StableDiffusion15
from qsd.zoo.sdxl import StableDiffusionXL

MINIATURES: dict[str, type[Miniature]] = {
    "digits-pixart-alpha": PixArtAlpha,
    "digits-pixart-sigma": PixArtSigma,
    "digits-hunyuan-dit": HunyuanDiT,
    "digits-sd15": StableDiffusion15,
    "digits-sdxl": StableDiffusionXL,
    "digits-dit": DiT,
}
"""Name of a pipeline's folder to its denoiser and conditioning: the six families of the paper."""

LABELING = {
    "digits-pixart-alpha": "label_digits.yaml",
    "digits-pixart-sigma": "label_pixart_sigma.yaml",
    "digits-hunyuan-dit": "label_hunyuan.yaml",
    "digits-sd15": "label_sd15.yaml",
    "digits-sdxl": "label_sdxl.yaml",
    "digits-dit": "label_dit.yaml",
    "digits-ddpm": "label_ddpm.yaml",
    "emoji-flux": "label_emoji_flux.yaml",
    "emoji-sana": "label_emoji_sana.yaml",
    "emoji-wan": "label_emoji_wan.yaml",
}
"""Name of a pipeline's folder to the YAML that says how it is measured."""
RANKERS = {
    "digits-pixart-alpha": "pixart.yaml",
    "digits-pixart-sigma": "pixart_sigma.yaml",
    "digits-hunyuan-dit": "hunyuan.yaml",
    "digits-sd15": "sd15.yaml",
    "digits-sdxl": "sdxl.yaml",
    "digits-dit": "dit.yaml",
    "emoji-flux": "emoji_flux.yaml",
    "emoji-sana": "emoji_sana.yaml",
    "emoji-wan": "emoji_wan.yaml",
    "digits-ddpm": "ddpm.yaml",
}
"""Name of a pipeline's folder whose store of labels ships to the YAML that trains its ranker."""


def train_miniature(
    make: Callable[[torch.device], Miniature],
    out: Path,
    *,
    seed: int = 0,
    device: torch.device,
    progress: Progress | None = None,
    cycles: tuple[tuple[int, float], ...] | None = None,
    autoencoder_steps: int = 1500,
) -> dict[str, float]:
    """Trains the denoiser, and its autoencoder unless it shares one, and writes the pipeline's folder.

    Args:
        make: a class of :data:`MINIATURES`.
        out: the folder to write.
        seed: of initialisation and batches.
        device: where to train.
        progress: told every 10 steps.
        cycles: steps and peak learning rate of the training and of its warm restarts; by default the class's.
        autoencoder_steps: updates of the autoencoder.

    Returns:
        ``loss``, ``bytes``, and ``autoencoder_rmse`` (grey levels of 255) of an autoencoder of its own.

    Raises:
        QsdError: the checkpoint that it takes parts from is not there.
    """
    digits = load_digits()
    facts: dict[str, float] = {}
    torch.manual_seed(seed)
    miniature = make(device)
    vae: AutoencoderKL | None = None
    if miniature.factor == 1:
        latents = to_pixels(digits.rgb).to(device)
    elif miniature.autoencoder_of:
        vae = pretrained(AutoencoderKL, miniature.autoencoder_of, "vae").to(device)
    else:
        torch.manual_seed(seed)
        vae, facts = train_autoencoder(
            digits.rgb, factor=miniature.factor, steps=autoencoder_steps, device=device, progress=progress
        )
    if vae is not None:
        latents = encode(vae, to_pixels(digits.rgb).to(device))
    torch.manual_seed(seed)
    recipe = miniature.recipe if cycles is None else dataclasses.replace(miniature.recipe, cycles=cycles)
    resume = out.with_name(f"{out.name}.training")
    facts |= train_denoiser(miniature, latents, digits, recipe, resume=resume, progress=progress)
    return facts | {"bytes": write_folder(out, miniature.pipeline(vae).save_pretrained)}


TRAINERS: dict[str, Callable[..., dict[str, float]]] = {
    "digits-classifier": train_classifier,
    "digits-clip": train_clip,
    **{name: partial(train_miniature, make) for name, make in MINIATURES.items()},
    "digits-ddpm": partial(train_miniature, DDPM),
    "emoji-autoencoder": train_emoji_autoencoder,
    "emoji-classifier": train_emoji_classifier,
    "emoji-clip": train_emoji_clip,
    "emoji-flux": partial(train_emoji, Flux),
    "emoji-sana": train_sana,
    "emoji-wan": train_wan,
}
"""Name of a checkpoint folder to the function that makes it, in an order that makes what is needed first."""


def train(
    name: str, out: Path, *, seed: int = 0, device: torch.device, progress: Progress | None = None
) -> dict[str, float]:
    """Makes a checkpoint folder from scratch, replacing the one at ``out``; measures it if it is a denoiser.

    Args:
        name: a key of :data:`TRAINERS`.
        out: the folder to write.
        seed: of initialisation and batches; the global generator is restored afterwards.
        device: where to train.
        progress: told every few steps.

    Returns:
        Measured facts: ``seconds`` of training, ``bytes``, losses, accuracies, FID.

    Raises:
        QsdError: unknown name, or scikit-learn is not installed.
    """
    if name not in TRAINERS:
        raise QsdError(f"no checkpoint {name!r} in the zoo; choose one of {', '.join(sorted(TRAINERS))}")
    started = time.perf_counter()
    with torch.random.fork_rng():
        facts = TRAINERS[name](out, seed=seed, device=device, progress=progress)
    facts["seconds"] = time.perf_counter() - started
    if name in LABELING:
        facts |= measure(name, out)
    return facts


def measure(name: str, folder: str | Path | None = None, *, seed: int = 0) -> dict[str, float]:
    """Quality of a trained denoiser at full precision (see :func:`qsd.zoo.quality.measure_quality`).

    Args:
        name: a key of :data:`LABELING`.
        folder: its checkpoint folder; by default the shipped one.
        seed: of the noise.

    Raises:
        QsdError: unknown name or missing folder.
    """
    if name not in LABELING:
        raise QsdError(f"no denoiser {name!r} in the zoo; choose one of {', '.join(sorted(LABELING))}")
    pipe: Any = load_pipeline(folder or f"checkpoints/{name}")
    return measure_quality(pipe, labeling_settings(name), seed=seed)


def evaluation_of(name: str) -> dict[str, Any]:
    """What the labeling YAML of a miniature says of its evaluation."""
    content = read_yaml(find(f"lightning_configs/{LABELING[name]}"))
    return dict(content["evaluation"])


def labeling_settings(name: str, num_images: int = 1000) -> EvaluationSettings:
    """How a miniature is measured: the settings of its labeling YAML, on ``num_images`` images."""
    return EvaluationSettings(**(evaluation_of(name) | {"num_images": num_images}))
