"""The DDPM miniature: an unconditional U-Net on the pixels of digits, with attention at its lowest level."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from torch import nn

from qsd.zoo.diffusion import Recipe, sampler
from qsd.zoo.digits import IMAGE_SIZE

_WIDTHS = (16, 32, 64)


class DDPM:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 1  # no autoencoder
    recipe = Recipe(cycles=((1000, 2e-3),), batch=64)
    autoencoder_of: str | None = None

    def __init__(self, device: torch.device) -> None:
        with device:
            self.unet = UNet2DModel(
                sample_size=IMAGE_SIZE,
                in_channels=3,
                out_channels=3,
                down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
                block_out_channels=_WIDTHS,
                layers_per_block=1,
                norm_num_groups=8,
                attention_head_dim=8,
            )
        self.modules = nn.ModuleDict({"unet": self.unet})

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the noise; the captions change nothing (see the protocol)."""
        return self.unet(noisy, timesteps).sample

    def pipeline(self, vae: AutoencoderKL | None) -> DDPMPipeline:
        """The stock pipeline around the trained U-Net."""
        scheduler: Any = sampler()
        return DDPMPipeline(unet=self.unet, scheduler=scheduler)
