"""The autoencoder that the latent miniatures of emoji share: 32x32x3 pixels to 8x8x8 latents."""

from pathlib import Path

import torch

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import reconstruction_rmse, to_pixels, train_autoencoder
from qsd.zoo.emoji.dataset import load_emoji
from qsd.zoo.folders import write_folder

FACTOR = 4
NAME = "emoji-autoencoder"


def train_emoji_autoencoder(
    out: Path, *, seed: int = 0, device: torch.device, progress: Progress | None = None, steps: int = 1300
) -> dict[str, float]:
    """Trains on all pictures but the held-out ones and writes the folder.

    Returns:
        ``autoencoder_rmse`` and ``held_out_rmse`` in grey levels of 255, ``bytes``.
    """
    emoji = load_emoji()
    torch.manual_seed(seed)
    vae, facts = train_autoencoder(
        emoji.where(~emoji.held_out).images,
        factor=FACTOR,
        steps=steps,
        device=device,
        progress=progress,
        resume=out.with_name(f"{out.name}.training"),
    )
    unseen = to_pixels(emoji.where(emoji.held_out).images).to(device)
    vae.register_to_config(shift_factor=0.0)  # some stock pipelines add it
    facts["held_out_rmse"] = reconstruction_rmse(vae, unseen)
    return facts | {"bytes": write_folder(out, vae.save_pretrained)}
