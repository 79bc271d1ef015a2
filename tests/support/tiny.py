"""Tiny random denoisers, built in milliseconds."""

import torch
from diffusers import PixArtTransformer2DModel


def tiny_pixart(seed: int = 0, num_layers: int = 2) -> PixArtTransformer2DModel:
    """Two blocks, width 16."""
    torch.manual_seed(seed)
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=num_layers,
        cross_attention_dim=16,
        sample_size=8,
        patch_size=2,
        caption_channels=12,
    ).eval()


def pixart_inputs(seed: int = 0) -> dict:
    """Arguments of its forward pass."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 12, generator=generator),
        "timestep": torch.tensor([3, 700]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
