"""The tiny AutoencoderKL of the latent miniatures: 2, 4 or 8 pixels a latent in each direction."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from qsd.support.progress import Progress
from qsd.zoo.digits import IMAGE_SIZE
from qsd.zoo.optimization import Batch, fit

LATENT_CHANNELS = {2: 4, 4: 8, 8: 32}
"""Channels of the latents by downsampling factor."""
_WIDTHS = (16, 32, 32, 32)
_KL_WEIGHT = 3e-5
_BATCH = 32


def latent_size(factor: int) -> int:
    """Height and width of the latents of a 16x16 image."""
    return IMAGE_SIZE // factor


def build_autoencoder(factor: int = 2, size: int = IMAGE_SIZE) -> AutoencoderKL:
    """An untrained autoencoder with a decoder that costs little beside the denoising steps.

    Args:
        factor: 2, 4 or 8, pixels per latent in each direction.
        size: height and width of the images.
    """
    levels = factor.bit_length()
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS[factor],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=_WIDTHS[:levels],
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
        scaling_factor=1.0,
    )


def train_autoencoder(
    images: torch.Tensor,
    *,
    factor: int = 2,
    steps: int = 1500,
    device: torch.device,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> tuple[AutoencoderKL, dict[str, float]]:
    """Trains on images and normalises their latents.

    Args:
        images: uint8 [N, 3, H, W], square.
        factor: 2, 4 or 8, pixels per latent in each direction.
        steps: updates of 32 images.
        device: where to train.
        progress: told every 10 steps.
        resume: see :func:`qsd.zoo.optimization.fit`.

    Returns:
        The autoencoder, whose latents have mean 0 and variance 1 per channel, and the root mean squared
        error of its reconstructions in grey levels of 255.
    """
    with device:
        vae = build_autoencoder(factor, images.shape[-1])
    pixels = to_pixels(images).to(device)

    def draw() -> Batch:
        return (pixels[torch.randint(len(pixels), (_BATCH,))],)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(batch).latent_dist
        error = nn.functional.mse_loss(vae.decode(posterior.sample()).sample, batch)
        return error + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    fit(
        vae.parameters(),
        draw,
        loss,
        steps=steps,
        learning_rate=3e-3,
        resume=resume,
        progress=progress,
        message="autoencoder",
    )
    vae.eval().requires_grad_(False)
    _normalise_latents(vae, encode(vae, pixels))
    return vae, {"autoencoder_rmse": reconstruction_rmse(vae, pixels)}


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [-1, 1], the range of diffusers' autoencoders."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Scaled latent means, float32 [N, C, h, w], of images in [-1, 1]."""
    return torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(256)]) * float(
        vae.config["scaling_factor"]
    )


@torch.no_grad()
def reconstruction_rmse(vae: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Root mean squared error in grey levels of 255, of images in [-1, 1]."""
    latents = encode(vae, pixels) / float(vae.config["scaling_factor"])
    parts = zip(latents.split(256), pixels.split(256), strict=True)
    total = sum(float((vae.decode(latent).sample - part).square().sum()) for latent, part in parts)
    return (total / pixels.numel()) ** 0.5 * 127.5


@torch.no_grad()
def _normalise_latents(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Folds the latents' mean and deviation per channel into the two 1x1 convolutions around them.

    The stock pipelines know one scaling factor only; folding lets it stay 1 with every channel normalised.
    """
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    into: Any = vae.quant_conv
    out_of: Any = vae.post_quant_conv
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()  # the second half are log variances
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean
    out_of.weight *= deviation[None, :, None, None]
