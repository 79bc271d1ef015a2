"""Denoisers of many families: tiny ones with weights, full-size ones without."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Family:
    """A diffusers class, the config of the published model, and the changes that make it tiny."""

    cls: str
    full: dict[str, Any]
    tiny: dict[str, Any]

    def build_tiny(self, device: str = "cpu") -> nn.Module:
        torch.manual_seed(0)
        with torch.device(device):
            return getattr(diffusers, self.cls)(**(self.full | self.tiny)).eval()

    def build_full(self) -> nn.Module:
        with torch.device("meta"):
            return getattr(diffusers, self.cls)(**self.full).eval()


_HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
_PIXART_TINY = _HEADS | {"num_layers": 2, "cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8}
_FLUX_TINY = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "in_channels": 4,
    "axes_dims_rope": (4, 4, 8),
}
_UNET_TINY = {"block_out_channels": (8, 16), "norm_num_groups": 4, "sample_size": 8, "layers_per_block": 1}

_PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "full_size_configs.json").read_text(encoding="utf-8")
)


def _families(tiny: dict[str, dict[str, Any]]) -> dict[str, Family]:
    return {name: Family(**_PUBLISHED[name], tiny=changes) for name, changes in tiny.items()}


PAPER = _families(
    {
        "pixart_alpha": _PIXART_TINY,
        "pixart_sigma": _PIXART_TINY,
        "hunyuan_dit": _HEADS
        | {
            "num_layers": 6,
            "hidden_size": 16,
            "sample_size": 8,
            "cross_attention_dim": 12,
            "cross_attention_dim_t5": 24,
            "pooled_projection_dim": 16,
            "text_len": 7,
            "text_len_t5": 5,
        },
        "sdxl": _UNET_TINY
        | {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 12,
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 12,
        },
        "sd15": _UNET_TINY
        | {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
        },
        "dit": _HEADS | {"num_layers": 2, "sample_size": 8, "norm_num_groups": 4, "num_embeds_ada_norm": 10},
    }
)
"""The six families of the paper."""

UNSEEN = _families(
    {
        "flux": _FLUX_TINY | {"pooled_projection_dim": 6},
        "sd35": _HEADS
        | {
            "num_layers": 2,
            "caption_projection_dim": 16,
            "joint_attention_dim": 12,
            "pooled_projection_dim": 6,
            "dual_attention_layers": (0,),
            "pos_embed_max_size": 16,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
        },
        "sana": _HEADS
        | {
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "in_channels": 4,
            "out_channels": 4,
            "sample_size": 8,
        },
        "lumina2": {
            "num_layers": 2,
            "num_refiner_layers": 1,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 8,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (32, 32, 32),
            "cap_feat_dim": 12,
            "in_channels": 4,
            "sample_size": 8,
        },
        "auraflow": _HEADS
        | {
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 2,
            "joint_attention_dim": 12,
            "caption_projection_dim": 16,
            "pos_embed_max_size": 64,
            "sample_size": 8,
        },
        "cogvideox": _HEADS
        | {
            "num_layers": 2,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 12,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 9,
            "max_text_seq_length": 8,
        },
        "wan": {
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 12,
            "freq_dim": 8,
            "ffn_dim": 32,
            "rope_max_seq_len": 32,
        },
        "z_image": {
            "n_layers": 2,
            "n_refiner_layers": 1,
            "dim": 32,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 12,
            "in_channels": 4,
            "axes_dims": [4, 6, 6],
            "axes_lens": [64, 32, 32],
        },
        "qwen_image": {
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "in_channels": 4,
            "out_channels": 1,
            "axes_dims_rope": (4, 6, 6),
        },
        "chroma": _FLUX_TINY
        | {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        "mochi": _HEADS
        | {
            "num_layers": 2,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "max_sequence_length": 8,
        },
        "cogview4": {
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_embed_dim": 12,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "pos_embed_max_size": 8,
            "sample_size": 8,
            "rope_axes_dim": (8, 8),
        },
    }
)
"""Families that no rule was written for by hand, beyond a word or two in the tables of inputs and roles."""

FAMILIES: dict[str, Family] = PAPER | UNSEEN
