"""Tiny random denoisers with convolutions and skips, and a tiny pipeline."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    UNet2DConditionModel,
)
from tiny import tiny_pixart


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """Two stages, widths 8 and 16, with skip concatenations."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def unet_inputs(seed: int = 0) -> dict[str, Any]:
    """Arguments of its forward pass."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(2, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 12, generator=generator),
        "timestep": torch.tensor([3, 700]),
    }


def tiny_pipeline() -> PixArtAlphaPipeline:
    """PixArt-alpha without a text encoder."""
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return PixArtAlphaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=tiny_pixart(),
        scheduler=DPMSolverMultistepScheduler(),
    )
