"""The trainable things by name, and the one function that trains any of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from transformers import AutoModelForImageClassification

from qsd.errors import QsdError
from qsd.paths import find
from qsd.progress import Progress
from qsd.zoo.autoencoder import LATENT_CHANNELS, LATENT_SIZE, encode, to_pixels, train_autoencoder
from qsd.zoo.classifier import train_classifier
from qsd.zoo.clip import train_clip
from qsd.zoo.diffusion import train_denoiser
from qsd.zoo.digits import load_digits
from qsd.zoo.folders import write_folder
from qsd.zoo.pixart_alpha import PixArtAlpha
from qsd.zoo.quality import draw_with, measure_quality

CLASSIFIER = "digits-classifier"
_LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
_CYCLES = ((4500, 1.5e-3), (3500, 1e-3))  # the restart halves the FID


def train_pixart_alpha(
    out: Path,
    *,
    seed: int = 0,
    device: torch.device,
    progress: Progress | None = None,
    cycles: Sequence[tuple[int, float]] = _CYCLES,
    autoencoder_steps: int = 1500,
) -> dict[str, float]:
    """Trains the autoencoder, then text encoder and denoiser together, and writes the pipeline's folder.

    Args:
        out: the folder to write.
        seed: of initialisation and batches.
        device: where to train.
        progress: told every 10 steps.
        cycles: steps and peak learning rate of the denoiser's training and of its warm restarts.
        autoencoder_steps: updates of the autoencoder.

    Returns:
        ``autoencoder_rmse`` (grey levels of 255), ``loss``, ``bytes``.
    """
    digits = load_digits()
    torch.manual_seed(seed)
    vae, facts = train_autoencoder(digits, steps=autoencoder_steps, device=device, progress=progress)
    latents = encode(vae, to_pixels(digits.rgb).to(device))
    torch.manual_seed(seed)
    miniature = PixArtAlpha(device)
    for steps, learning_rate in cycles:
        facts |= train_denoiser(
            miniature, latents, digits, steps=steps, learning_rate=learning_rate, progress=progress
        )
    return facts | {"bytes": write_folder(out, miniature.pipeline(vae).save_pretrained)}


TRAINERS: dict[str, Callable[..., dict[str, float]]] = {
    CLASSIFIER: train_classifier,
    "digits-clip": train_clip,
    "digits-pixart-alpha": train_pixart_alpha,
}
"""Name of a checkpoint folder to the function that makes it."""

DRAW_SETTINGS: dict[str, dict[str, Any]] = {
    "digits-pixart-alpha": {"use_resolution_binning": False, "max_sequence_length": 8},
}
"""Denoisers, with what their pipelines need beside prompts and noise."""


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
    if name in DRAW_SETTINGS:
        facts |= measure(name, out, progress=progress)
    return facts


def measure(
    name: str, folder: str | Path | None = None, *, seed: int = 0, progress: Progress | None = None
) -> dict[str, float]:
    """Quality of a trained denoiser at full precision (see :func:`qsd.zoo.quality.measure_quality`).

    Args:
        name: a key of :data:`DRAW_SETTINGS`.
        folder: its checkpoint folder; by default the shipped one.
        seed: of the initial noise.
        progress: told after every batch.

    Raises:
        QsdError: unknown name, missing folder, or scikit-learn is not installed.
    """
    if name not in DRAW_SETTINGS:
        raise QsdError(f"no denoiser {name!r} in the zoo; choose one of {', '.join(sorted(DRAW_SETTINGS))}")
    classifier = AutoModelForImageClassification.from_pretrained(find(f"checkpoints/{CLASSIFIER}"))
    pipeline = DiffusionPipeline.from_pretrained(find(folder or f"checkpoints/{name}"))
    draw = draw_with(pipeline, **DRAW_SETTINGS[name])
    return measure_quality(draw, _LATENT_SHAPE, classifier, load_digits(), seed=seed, progress=progress)
