"""Trains a miniature of emoji and writes its folder."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import encode, to_pixels
from qsd.zoo.emoji.autoencoder import NAME
from qsd.zoo.emoji.dataset import load_emoji
from qsd.zoo.emoji.flow import FlowMiniature, train_flow
from qsd.zoo.folders import write_folder
from qsd.zoo.optimization import fit
from qsd.zoo.pretrained import pretrained

Autoencoder = TypeVar("Autoencoder", bound=ModelMixin)


def train_emoji(
    make: Callable[[Sequence[str], torch.device], FlowMiniature],
    out: Path,
    *,
    seed: int = 0,
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trains a denoiser on the latents of the drawn categories.

    Args:
        make: a class with captions and device as arguments.
        out: the folder to write; an interrupted training goes on from the file ``OUT.training`` beside it.
        seed: of initialisation, batches and noise.
        device: where to train.
        progress: told every 10 steps.

    Returns:
        ``loss`` and ``bytes``.

    Raises:
        QsdError: the data or the shared autoencoder are not there.
    """
    emoji = load_emoji(["images"])
    vae = pretrained(AutoencoderKL, NAME).to(device)
    latents = encode(vae, to_pixels(emoji.images).to(device))
    return train_on_latents(
        lambda: make([*emoji.captions, ""], device), vae, latents, out, seed=seed, progress=progress
    )


def train_on_latents(
    make: Callable[[], FlowMiniature],
    vae: ModelMixin,
    latents: torch.Tensor,
    out: Path,
    *,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trains a denoiser on latents and writes the folder.

    Args:
        make: called under the seed; its captions belong to the latents row by row.
        vae: the trained autoencoder that the pipeline decodes with.
        latents: float32 [N, ...], unit variance.
        out: the folder to write; an interrupted training goes on from the file ``OUT.training`` beside it.
        seed: of initialisation, batches and noise.
        progress: told every 10 steps.

    Returns:
        ``loss`` and ``bytes``.
    """
    torch.manual_seed(seed)
    miniature = make()
    resume = out.with_name(f"{out.name}.training")
    facts = train_flow(miniature, latents, seed=seed, resume=resume, progress=progress)
    facts["bytes"] = write_folder(out, miniature.pipeline(vae).save_pretrained)
    shutil.rmtree(_finished_autoencoder(out), ignore_errors=True)
    return facts


def own_autoencoder(
    build: Callable[[], Autoencoder],
    loss: Callable[[Autoencoder, torch.Tensor], torch.Tensor],
    pictures: torch.Tensor,
    out: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> Autoencoder:
    """Trains the autoencoder of a miniature that shares none; a finished one beside the folder is taken.

    Args:
        build: makes it, untrained.
        loss: of a batch of pictures.
        pictures: float32 [N, 3, ...] in [-1, 1].
        out: the miniature's folder; the trained autoencoder lies in ``OUT.training-vae``.
        steps: updates.
        batch: pictures per update.
        seed: of initialisation and batches.
        device: where to train.
        progress: told every 10 steps.
    """
    torch.manual_seed(seed)
    with device:
        vae = build()
    finished = _finished_autoencoder(out)
    if finished.exists():
        loaded: Any = type(vae).from_pretrained(finished)
        return cast(Autoencoder, loaded.to(device).eval().requires_grad_(False))
    fit(
        vae.parameters(),
        lambda: (pictures[torch.randint(len(pictures), (batch,))],),
        lambda rows: loss(vae, rows),
        steps=steps,
        learning_rate=3e-3,
        resume=out.with_name(f"{out.name}.training-autoencoder"),
        progress=progress,
        message="autoencoder",
    )
    vae.eval().requires_grad_(False)
    write_folder(finished, vae.save_pretrained)
    return vae


def _finished_autoencoder(out: Path) -> Path:
    return out.with_name(f"{out.name}.training-vae")
