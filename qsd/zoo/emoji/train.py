"""Trains a miniature of emoji and writes its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import encode, to_pixels
from qsd.zoo.emoji.autoencoder import NAME
from qsd.zoo.emoji.dataset import load_emoji
from qsd.zoo.emoji.flow import FlowMiniature, train_flow
from qsd.zoo.folders import write_folder
from qsd.zoo.pretrained import pretrained


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
    torch.manual_seed(seed)
    miniature = make([*emoji.captions, ""], device)
    facts = train_flow(
        miniature, latents, seed=seed, resume=out.with_name(f"{out.name}.training"), progress=progress
    )
    return facts | {"bytes": write_folder(out, miniature.pipeline(vae).save_pretrained)}
