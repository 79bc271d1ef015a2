"""Tiny denoisers of the classes that diffusers exports, and arguments that their forwards accept."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

SIDE, TOKENS, TEXT = 8, 6, 12


@dataclasses.dataclass(frozen=True)
class Case:
    """A class, a config that makes it tiny, and what makes the arguments of its forward.

    Attributes:
        cls: name in diffusers.
        config: keyword arguments of the class.
        inputs: makes the keyword arguments of the forward, a batch of one.
        variant: tells several cases of one class apart.
    """

    cls: str
    config: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.cls} {self.variant}".strip()

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        denoiser = getattr(diffusers, self.cls)(**self.config).eval()
        for name, parameter in denoiser.named_parameters():
            if ".experts." in name and parameter.ndim == 3:  # which diffusers leaves uninitialized
                nn.init.normal_(parameter, std=0.05)
        return denoiser


def t(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ids(*shape: int, below: int = 4) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(sum(shape)))


def yes(*shape: int, dtype: torch.dtype = torch.bool) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


STEP = torch.tensor([500.0])
LONG_STEP = torch.tensor([500])
HALF = torch.tensor([0.5])

_HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
_SMALL_UNET: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
_CROSS_UNET: dict[str, Any] = _SMALL_UNET | {
    "sample_size": SIDE,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": TEXT,
    "attention_head_dim": 4,
}
_FLUX: dict[str, Any] = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (4, 4, 8),
}
_WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT,
    "freq_dim": 8,
    "ffn_dim": 24,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
_HUNYUAN_VIDEO: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": 1,
    "text_embed_dim": TEXT,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}


def _flux_inputs(**more: Any) -> dict[str, Any]:
    return {
        "hidden_states": t(1, 16, 4),
        "encoder_hidden_states": t(1, TOKENS, TEXT),
        "timestep": HALF,
        "img_ids": t(16, 3),
        "txt_ids": t(TOKENS, 3),
        **more,
    }


def _image(channels: int = 4, side: int = SIDE, *, step: torch.Tensor = STEP, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": t(1, channels, side, side),
        "encoder_hidden_states": t(1, TOKENS, TEXT),
        "timestep": step,
        **more,
    }


def _video(channels: int = 4, frames: int = 2, *, step: torch.Tensor = STEP, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": t(1, channels, frames, SIDE, SIDE),
        "encoder_hidden_states": t(1, TOKENS, TEXT),
        "timestep": step,
        **more,
    }


def _unet(channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "sample": t(1, channels, SIDE, SIDE),
        "timestep": LONG_STEP,
        "encoder_hidden_states": t(1, TOKENS, TEXT),
        **more,
    }


def _unet_video(channels: int = 4, frames: int = 2, **more: Any) -> dict[str, Any]:
    return _unet() | {"sample": t(1, channels, frames, SIDE, SIDE)} | more


CASES: tuple[Case, ...] = (
    Case(
        "AceStepTransformer1DModel",
        {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "in_channels": 12,
            "audio_acoustic_hidden_dim": 4,
            "sliding_window": 4,
        },
        lambda: {
            "hidden_states": t(1, 8, 4),
            "timestep": HALF,
            "timestep_r": HALF,
            "encoder_hidden_states": t(1, TOKENS, 16),
            "context_latents": t(1, 8, 8),
        },
    ),
    Case(
        "AllegroTransformer3DModel",
        _HEADS
        | {
            "attention_head_dim": 12,
            "num_layers": 1,
            "cross_attention_dim": 24,
            "caption_channels": TEXT,
            "sample_height": SIDE,
            "sample_width": SIDE,
            "sample_frames": 2,
        },
        lambda: _video(
            attention_mask=yes(1, 2, SIDE, SIDE, dtype=torch.long),
            encoder_attention_mask=yes(1, TOKENS, dtype=torch.long),
            encoder_hidden_states=t(1, 1, TOKENS, TEXT),
            image_rotary_emb=(
                ((t(4, 4), t(4, 4)), (t(4, 4), t(4, 4)), (t(4, 4), t(4, 4))),
                (torch.zeros(1, 32, dtype=torch.long),) * 3,
            ),
        ),
    ),
    Case(
        "AnyFlowFARTransformer3DModel",
        _WAN | {"chunk_partition": (1, 2), "full_chunk_limit": 2},
        lambda: {
            "hidden_states": t(1, 3, 4, SIDE, SIDE),
            "timestep": torch.full((1, 3), 500.0),
            "r_timestep": torch.full((1, 3), 400.0),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "chunk_partition": (1, 2),
            "clean_hidden_states": t(1, 3, 4, SIDE, SIDE),
            "clean_timestep": torch.zeros(1, 3),
        },
    ),
    Case(
        "AnyFlowTransformer3DModel",
        _WAN,
        lambda: _video(
            hidden_states=t(1, 2, 4, SIDE, SIDE),
            step=torch.full((1, 2), 500.0),
            r_timestep=torch.full((1, 2), 400.0),
        ),
    ),
    Case(
        "AudioLDM2UNet2DConditionModel",
        _CROSS_UNET | {"cross_attention_dim": ((None, TEXT, 8), (None, TEXT, 8))},
        lambda: _unet(encoder_hidden_states=t(1, TOKENS, TEXT), encoder_hidden_states_1=t(1, TOKENS, 8)),
    ),
    Case(
        "AuraFlowTransformer2DModel",
        _HEADS
        | {
            "sample_size": SIDE,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "joint_attention_dim": TEXT,
            "caption_projection_dim": 16,
            "pos_embed_max_size": 64,
        },
        lambda: _image(step=HALF),
    ),
    Case(
        "BriaFibo2Transformer2DModel",
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 3,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "cap_feat_dim": TEXT,
            "injection_layer_ids": (1,),
            "perceiver_num_layers": 1,
            "min_num_gist_tokens": 2,
            "max_num_gist_tokens": 4,
            "gist_step": 2,
            "gist_min_text_len": 2,
            "gist_max_text_len": 16,
            "axes_dims": (4, 6, 6),
            "axes_lens": (64, 32, 32),
        },
        lambda: _image(step=HALF, encoder_hidden_states=t(1, 2, TOKENS, TEXT)),
    ),
    Case(
        "BriaFiboTransformer2DModel",
        _FLUX | {"text_encoder_dim": 8},
        lambda: _flux_inputs(text_encoder_layers=[t(1, TOKENS, 8), t(1, TOKENS, 8)]),
    ),
    Case("BriaTransformer2DModel", _FLUX, _flux_inputs),
    Case(
        "ChromaTransformer2DModel",
        _FLUX | {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        _flux_inputs,
    ),
    Case("ChronoEditTransformer3DModel", _WAN | {"rope_temporal_skip_len": 2}, _video),
    Case(
        "CogVideoXTransformer3DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": TEXT,
            "num_layers": 1,
            "sample_width": SIDE,
            "sample_height": SIDE,
            "sample_frames": 5,
            "max_text_seq_length": TOKENS,
        },
        lambda: _video(hidden_states=t(1, 2, 4, SIDE, SIDE)),
    ),
    Case(
        "CogVideoXTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "ofs_embed_dim": 8,
            "text_embed_dim": TEXT,
            "num_layers": 1,
            "sample_width": SIDE,
            "sample_height": SIDE,
            "sample_frames": 5,
            "patch_size_t": 2,
            "patch_bias": False,
            "max_text_seq_length": TOKENS,
            "use_rotary_positional_embeddings": True,
        },
        lambda: _video(
            hidden_states=t(1, 2, 4, SIDE, SIDE),
            ofs=torch.tensor([2.0]),
            image_rotary_emb=(t(16, 16), t(16, 16)),
        ),
        "1.5",
    ),
    Case(
        "CogView3PlusTransformer2DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "text_embed_dim": TEXT,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "pos_embed_max_size": 8,
            "sample_size": SIDE,
        },
        lambda: _image(original_size=t(1, 2), target_size=t(1, 2), crop_coords=t(1, 2)),
    ),
    Case(
        "CogView4Transformer2DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "text_embed_dim": TEXT,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "pos_embed_max_size": 8,
            "sample_size": SIDE,
            "rope_axes_dim": (8, 8),
        },
        lambda: _image(original_size=t(1, 2), target_size=t(1, 2), crop_coords=t(1, 2)),
    ),
    Case(
        "ConsisIDTransformer3DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": TEXT,
            "num_layers": 2,
            "sample_width": SIDE,
            "sample_height": SIDE,
            "sample_frames": 5,
            "max_text_seq_length": TOKENS,
            "is_train_face": True,
            "cross_attn_interval": 1,
            "cross_attn_dim_head": 8,
            "cross_attn_num_heads": 2,
            "LFE_id_dim": 6,
            "LFE_vit_dim": 8,
            "LFE_depth": 5,
            "LFE_dim_head": 4,
            "LFE_num_heads": 2,
            "LFE_num_id_token": 2,
            "LFE_num_querie": 2,
            "LFE_output_dim": 10,
            "LFE_ff_mult": 1,
            "LFE_num_scale": 5,
        },
        lambda: _video(
            hidden_states=t(1, 2, 4, SIDE, SIDE),
            id_cond=t(1, 6),
            id_vit_hidden=[t(1, 4, 8) for _ in range(5)],
        ),
    ),
    Case(
        "CosmosTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "text_embed_dim": TEXT,
            "adaln_lora_dim": 4,
            "max_size": (4, 16, 16),
            "concat_padding_mask": False,  # resizing the mask needs torchvision
        },
        lambda: _video(fps=30),
    ),
    Case(
        "DiTTransformer2DModel",
        _HEADS
        | {
            "in_channels": 4,
            "num_layers": 1,
            "sample_size": SIDE,
            "norm_num_groups": 4,
            "num_embeds_ada_norm": 10,
        },
        lambda: {"hidden_states": t(1, 4, SIDE, SIDE), "timestep": LONG_STEP, "class_labels": ids(1)},
    ),
    Case(
        "DreamLiteUNetModel",
        {
            "sample_size": SIDE,
            "block_out_channels": (8, 16, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": TEXT,
            "attention_head_dim": 4,
        },
        _unet,
    ),
    Case(
        "EasyAnimateTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "sample_width": SIDE,
            "sample_height": SIDE,
            "num_layers": 2,
            "mmdit_layers": 1,
            "time_embed_dim": 8,
            "text_embed_dim": TEXT,
        },
        _video,
    ),
    Case(
        "ErnieImageTransformer2DModel",
        {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 1,
            "ffn_hidden_size": 24,
            "in_channels": 4,
            "out_channels": 4,
            "text_in_dim": TEXT,
            "rope_axes_dim": (4, 6, 6),
        },
        lambda: {
            "hidden_states": t(1, 4, SIDE, SIDE),
            "timestep": STEP,
            "text_bth": t(1, TOKENS, TEXT),
            "text_lens": torch.tensor([TOKENS]),
        },
    ),
    Case(
        "Flux2Transformer2DModel",
        _FLUX | {"timestep_guidance_channels": 8, "axes_dims_rope": (4, 4, 4, 4)},
        lambda: _flux_inputs(guidance=HALF, img_ids=t(1, 16, 4), txt_ids=t(1, TOKENS, 4)),
    ),
    Case(
        "Flux3Transformer2DModel",
        _FLUX | {"timestep_channels": 8, "cond_in_channels": 4, "axes_dims_rope": (4, 4, 4, 4)},
        lambda: _flux_inputs(img_ids=t(16, 4), txt_ids=t(TOKENS, 4)),
    ),
    Case(
        "FluxTransformer2DModel",
        _FLUX | {"pooled_projection_dim": 6},
        lambda: _flux_inputs(pooled_projections=t(1, 6)),
    ),
    Case(
        "FluxTransformer2DModel",
        _FLUX | {"pooled_projection_dim": 6, "guidance_embeds": True},
        lambda: _flux_inputs(pooled_projections=t(1, 6), guidance=HALF),
        "distilled",
    ),
    Case(
        "GlmImageTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "text_embed_dim": TEXT,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "prior_vq_quantizer_codebook_size": 16,
        },
        lambda: _image(
            prior_token_id=ids(1, 16),
            prior_token_drop=torch.zeros(1, 16, dtype=torch.bool),
            target_size=t(1, 2),
            crop_coords=t(1, 2),
        ),
    ),
    Case(
        "HeliosTransformer3DModel",
        {key: value for key, value in _WAN.items() if key != "rope_max_seq_len"} | {"rope_dim": (4, 4, 4)},
        lambda: _video(
            indices_hidden_states=torch.arange(2)[None],
            indices_latents_history_short=torch.arange(2)[None],
            indices_latents_history_mid=torch.arange(2)[None],
            indices_latents_history_long=torch.arange(4)[None],
            latents_history_short=t(1, 4, 2, SIDE, SIDE),
            latents_history_mid=t(1, 4, 2, SIDE, SIDE),
            latents_history_long=t(1, 4, 4, SIDE, SIDE),
        ),
    ),
    Case(
        "HiDreamImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_channels": [TEXT, TEXT],
            "text_emb_dim": 8,
            "num_routed_experts": 2,
            "num_activated_experts": 1,
            "axes_dims_rope": (2, 4, 2),
            "max_resolution": (8, 8),
            "llama_layers": (0, 1),
            "force_inference_output": True,
        },
        lambda: {
            "hidden_states": t(1, 4, SIDE, SIDE),
            "timesteps": STEP,
            "encoder_hidden_states_t5": t(1, TOKENS, TEXT),
            "encoder_hidden_states_llama3": t(2, 1, TOKENS, TEXT),
            "pooled_embeds": t(1, 8),
        },
    ),
    Case(
        "HunyuanDiT2DModel",
        _HEADS
        | {
            "hidden_size": 16,
            "num_layers": 4,
            "sample_size": SIDE,
            "patch_size": 2,
            "in_channels": 4,
            "activation_fn": "gelu-approximate",
            "cross_attention_dim": TEXT,
            "cross_attention_dim_t5": 24,
            "pooled_projection_dim": 16,
            "text_len": 7,
            "text_len_t5": 5,
        },
        lambda: {
            "hidden_states": t(1, 4, SIDE, SIDE),
            "timestep": STEP,
            "encoder_hidden_states": t(1, 7, TEXT),
            "text_embedding_mask": yes(1, 7, dtype=torch.long),
            "encoder_hidden_states_t5": t(1, 5, 24),
            "text_embedding_mask_t5": yes(1, 5, dtype=torch.long),
            "image_meta_size": t(1, 6),
            "style": ids(1, below=1),
            "image_rotary_emb": (t(16, 8), t(16, 8)),
        },
    ),
    Case(
        "HunyuanImageTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": TEXT,
            "rope_axes_dim": (4, 4),
        },
        lambda: _image(encoder_attention_mask=yes(1, TOKENS)),
    ),
    Case(
        "HunyuanVideo15Transformer3DModel",
        {
            "in_channels": 9,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": TEXT,
            "text_embed_2_dim": 8,
            "image_embed_dim": 8,
            "rope_axes_dim": (2, 2, 4),
        },
        lambda: _video(
            9,
            encoder_attention_mask=yes(1, TOKENS),
            encoder_hidden_states_2=t(1, 4, 8),
            encoder_attention_mask_2=yes(1, 4),
            image_embeds=t(1, 3, 8),
        ),
    ),
    Case(
        "HunyuanVideoFramepackTransformer3DModel",
        _HUNYUAN_VIDEO
        | {"patch_size": 2, "has_image_proj": True, "image_proj_dim": 8, "has_clean_x_embedder": True},
        lambda: _video(
            encoder_attention_mask=yes(1, TOKENS),
            pooled_projections=t(1, 8),
            image_embeds=t(1, 3, 8),
            indices_latents=torch.tensor([0, 1]),
            guidance=STEP,
            latents_clean=t(1, 4, 2, SIDE, SIDE),
            indices_latents_clean=torch.tensor([0, 1]),
            latents_history_2x=t(1, 4, 2, SIDE, SIDE),
            indices_latents_history_2x=torch.tensor([0, 1]),
            latents_history_4x=t(1, 4, 4, SIDE, SIDE),
            indices_latents_history_4x=torch.tensor([0, 1, 2, 3]),
        ),
    ),
    Case(
        "HunyuanVideoTransformer3DModel",
        _HUNYUAN_VIDEO,
        lambda: _video(encoder_attention_mask=yes(1, TOKENS), pooled_projections=t(1, 8), guidance=STEP),
    ),
    Case(
        "I2VGenXLUNet",
        {
            "sample_size": SIDE,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": TEXT,
            "attention_head_dim": 4,
        },
        lambda: _unet_video(
            fps=torch.tensor([8]),
            image_latents=t(1, 4, 2, SIDE, SIDE),
            image_embeddings=t(1, TEXT),
        ),
    ),
    Case(
        "Ideogram4Transformer2DModel",
        {
            "in_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 12,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "adaln_dim": 8,
            "llm_features_dim": TEXT,
            "mrope_section": (2, 2, 2),
        },
        lambda: {
            "hidden_states": t(1, TOKENS + 16, 4),
            "timestep": HALF,
            "encoder_hidden_states": t(1, TOKENS + 16, TEXT),
            "position_ids": ids(1, TOKENS + 16, 3),
            "segment_ids": torch.zeros(1, TOKENS + 16, dtype=torch.long),
            "indicator": torch.tensor([[3] * TOKENS + [2] * 16]),
        },
    ),
    Case(
        "JoyImageEditTransformer3DModel",
        {
            "in_channels": 4,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "text_dim": TEXT,
            "num_layers": 1,
            "rope_dim_list": [4, 6, 6],
        },
        lambda: _video() | {"hidden_states": t(1, 2, 4, 1, SIDE, SIDE)},
    ),
    Case(
        "JoyImageEditPlusTransformer3DModel",
        {
            "in_channels": 4,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "text_dim": TEXT,
            "num_layers": 1,
            "rope_dim_list": [4, 6, 6],
        },
        lambda: {
            "hidden_states": t(1, 32, 4, 1, 2, 2),
            "timestep": STEP,
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "encoder_hidden_states_mask": yes(1, TOKENS),
            "shape_list": [[(1, 4, 4), (1, 4, 4)]],
        },
    ),
    Case(
        "Kandinsky3UNet",
        {
            "in_channels": 4,
            "time_embedding_dim": 8,
            "groups": 4,
            "attention_head_dim": 4,
            "layers_per_block": 2,
            "block_out_channels": (8, 16),
            "cross_attention_dim": TEXT,
            "encoder_hid_dim": 10,
        },
        lambda: _unet(encoder_hidden_states=t(1, TOKENS, 10), encoder_attention_mask=yes(1, TOKENS)),
    ),
    Case(
        "Kandinsky5Transformer3DModel",
        {
            "in_visual_dim": 4,
            "in_text_dim": TEXT,
            "in_text_dim2": 8,
            "time_dim": 8,
            "out_visual_dim": 4,
            "model_dim": 32,
            "ff_dim": 24,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
        },
        lambda: {
            "hidden_states": t(1, 2, SIDE, SIDE, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "timestep": STEP,
            "pooled_projections": t(1, 8),
            "visual_rope_pos": [torch.arange(2), torch.arange(4), torch.arange(4)],
            "text_rope_pos": torch.arange(TOKENS),
        },
    ),
    Case(
        "Kandinsky6SRTransformer3DModel",
        {
            "in_visual_dim": 8,
            "out_visual_dim": 8,
            "time_dim": 8,
            "model_dim": 32,
            "ff_dim": 24,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
        },
        lambda: {"hidden_states": t(1, 1, 16, 16, 17), "timestep": STEP},
    ),
    Case(
        "Kandinsky6Transformer3DModel",
        {
            "in_visual_dim": 4,
            "out_visual_dim": 4,
            "in_text_dim": TEXT,
            "in_text_dim2": 8,
            "time_dim": 8,
            "model_dim": 32,
            "ff_dim": 24,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
            "visual_cond": False,
            "in_audio_dim": 4,
            "out_audio_dim": 4,
            "model_dim_a": 16,
            "time_dim_a": 8,
            "ff_dim_a": 24,
            "axes_dims_a": (2, 2, 4),
        },
        lambda: {
            "hidden_states": t(1, 2, SIDE, SIDE, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "pooled_projections": t(1, 8),
            "timestep": STEP,
            "audio_hidden_states": t(1, 6, 4),
        },
    ),
    Case(
        "Krea2Transformer2DModel",
        {
            "in_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 24,
            "timestep_embed_dim": 8,
            "text_hidden_dim": 16,
            "num_text_layers": 2,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
            "text_intermediate_size": 24,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 6, 6),
        },
        lambda: {
            "hidden_states": t(1, 16, 4),
            "encoder_hidden_states": t(1, TOKENS, 2, 16),
            "timestep": HALF,
            "position_ids": t(TOKENS + 16, 3),
            "encoder_attention_mask": yes(1, TOKENS),
        },
    ),
    Case(
        "LTX2VideoTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "audio_in_channels": 4,
            "audio_out_channels": 4,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 4,
            "audio_cross_attention_dim": 8,
            "num_layers": 1,
            "caption_channels": TEXT,
        },
        lambda: {
            "hidden_states": t(1, 8, 4),
            "audio_hidden_states": t(1, 4, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "audio_encoder_hidden_states": t(1, TOKENS, TEXT),
            "timestep": STEP,
            "num_frames": 2,
            "height": 2,
            "width": 2,
            "audio_num_frames": 4,
        },
    ),
    Case(
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": TEXT,
        },
        lambda: {
            "hidden_states": t(1, 8, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "timestep": STEP,
            "encoder_attention_mask": yes(1, TOKENS),
            "num_frames": 2,
            "height": 2,
            "width": 2,
        },
    ),
    Case(
        "LatteTransformer3DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "cross_attention_dim": 16,
            "attention_bias": True,
            "sample_size": SIDE,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "caption_channels": TEXT,
            "video_length": 2,
        },
        _video,
    ),
    Case(
        "LongCatAudioDiTTransformer",
        {"dit_dim": 16, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": TEXT, "latent_dim": 4},
        lambda: {
            "hidden_states": t(1, 8, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "encoder_attention_mask": yes(1, TOKENS),
            "timestep": HALF,
            "attention_mask": yes(1, 8),
            "latent_cond": t(1, 8, 4),
        },
    ),
    Case("LongCatImageTransformer2DModel", _FLUX | {"pooled_projection_dim": 6}, _flux_inputs),
    Case(
        "Lumina2Transformer2DModel",
        {
            "sample_size": SIDE,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 8,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (32, 32, 32),
            "cap_feat_dim": TEXT,
        },
        lambda: _image(step=HALF, encoder_attention_mask=yes(1, TOKENS)),
    ),
    Case(
        "LuminaNextDiT2DModel",
        {
            "sample_size": SIDE,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 8,
            "cross_attention_dim": TEXT,
        },
        lambda: {
            "hidden_states": t(1, 4, SIDE, SIDE),
            "timestep": HALF,
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "encoder_mask": yes(1, TOKENS),
            "image_rotary_emb": torch.polar(torch.ones(32, 32, 4), t(32, 32, 4)),
            "cross_attention_kwargs": {},
        },
    ),
    Case(
        "MiniMaxH3Transformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "hidden_size": 16,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "ffn_dim": 24,
            "in_channels": 4,
            "audio_in_channels": 4,
            "text_dim": TEXT,
            "freq_dim": 8,
            "time_embed_hidden_dim": 16,
            "time_embed_dim": 8,
            "rope_freq_dim": 1,
        },
        lambda: {
            "hidden_states": t(1, 16, 16),
            "audio_hidden_states": t(1, 4, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "timestep": torch.tensor([500.0]),
            "timestep_indices": torch.zeros(TOKENS + 20, dtype=torch.long),
            "token_tags": torch.tensor([0] * TOKENS + [1] * 16 + [2] * 4),
            "position_ids": ids(TOKENS + 20, 3),
            "video_indices": torch.arange(TOKENS, TOKENS + 16),
            "audio_indices": torch.arange(TOKENS + 16, TOKENS + 20),
            "text_indices": torch.arange(TOKENS),
        },
    ),
    Case(
        "MiniMaxMusic3RVQDepthDecoder",
        {
            "hidden_size": 16,
            "num_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "audio_vocab_size": 16,
            "num_codebooks": 2,
            "max_position_embeddings": 8,
        },
        lambda: {"inputs_embeds": t(1, 2, 16)},
    ),
    Case(
        "MiniMaxMusic3Transformer1DModel",
        {
            "in_channels": 4,
            "condition_dim": TEXT,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "ff_inner_dim": 24,
            "rotary_dim": 4,
            "fourier_embedding_dim": 8,
        },
        lambda: {"hidden_states": t(1, 4, 8), "timestep": HALF, "encoder_hidden_states": t(1, 8, TEXT)},
    ),
    Case(
        "MochiTransformer3DModel",
        _HEADS
        | {
            "num_layers": 2,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "max_sequence_length": TOKENS,
        },
        lambda: _video(encoder_hidden_states=t(1, TOKENS, 16), encoder_attention_mask=yes(1, TOKENS)),
    ),
    Case(
        "MotifVideoTransformer3DModel",
        {
            "in_channels": 9,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 1,
            "num_single_layers": 1,
            "text_embed_dim": TEXT,
            "rope_axes_dim": (2, 4, 4),
        },
        lambda: _video(9, encoder_attention_mask=yes(1, TOKENS)),
    ),
    Case(
        "NucleusMoEImageTransformer2DModel",
        {
            "in_channels": 4,
            "num_layers": 5,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": (4, 6, 6),
            "mlp_ratio": 6.0,
            "num_experts": 4,
            "moe_intermediate_dim": 12,
            "capacity_factors": 2.0,
        },
        lambda: {
            "hidden_states": t(1, 16, 4),
            "img_shapes": [(1, 4, 4)],
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "encoder_hidden_states_mask": yes(1, TOKENS),
            "timestep": HALF,
        },
    ),
    Case(
        "OmniGenTransformer2DModel",
        {
            "in_channels": 4,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 24,
            "num_layers": 1,
            "pad_token_id": 0,
            "vocab_size": 32,
            "pos_embed_max_size": SIDE,
            "time_step_dim": 8,
            "rope_scaling": {"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "type": "longrope"},
        },
        lambda: {
            "hidden_states": t(1, 4, SIDE, SIDE),
            "timestep": HALF,
            "input_ids": ids(1, 20, below=32),
            "input_img_latents": [t(1, 4, SIDE, SIDE)],
            "input_image_sizes": {0: [[0, 16]]},
            "attention_mask": yes(1, 37, 37, dtype=torch.long),
            "position_ids": torch.arange(37)[None],
        },
    ),
    Case(
        "OvisImageTransformer2DModel",
        _FLUX | {"out_channels": 4},
        _flux_inputs,
    ),
    Case(
        "PRXTransformer2DModel",
        {
            "in_channels": 4,
            "context_in_dim": TEXT,
            "hidden_size": 16,
            "num_heads": 2,
            "depth": 2,
            "axes_dim": [4, 4],
        },
        lambda: _image(step=HALF),
    ),
    Case(
        "PixArtTransformer2DModel",
        _HEADS
        | {
            "num_layers": 1,
            "cross_attention_dim": 16,
            "sample_size": SIDE,
            "caption_channels": TEXT,
        },
        lambda: _image(added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
    ),
    Case(
        "PriorTransformer",
        _HEADS | {"num_layers": 1, "embedding_dim": 8, "num_embeddings": TOKENS},
        lambda: {
            "hidden_states": t(1, 8),
            "timestep": LONG_STEP,
            "proj_embedding": t(1, 8),
            "encoder_hidden_states": t(1, TOKENS, 8),
        },
    ),
    Case(
        "QwenImage21Transformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "context_in_dim": TEXT,
            "axes_dims_rope": (4, 6, 6),
        },
        lambda: {
            "hidden_states": t(1, 16, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "timestep": HALF,
            "img_shapes": [[(1, 4, 4)]],
            "img_mask": torch.tensor([[False] * TOKENS + [True] * 4]),
            "encoder_hidden_states_mask": yes(1, TOKENS),
        },
    ),
    Case(
        "QwenImageTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 1,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": (4, 6, 6),
        },
        lambda: {
            "hidden_states": t(1, 16, 4),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "encoder_hidden_states_mask": yes(1, TOKENS),
            "timestep": HALF,
            "img_shapes": [[(1, 4, 4)]],
        },
    ),
    Case(
        "SD3Transformer2DModel",
        _HEADS
        | {
            "sample_size": SIDE,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": TEXT,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 16,
        },
        lambda: _image(pooled_projections=t(1, 8)),
    ),
    Case(
        "SD3Transformer2DModel",
        _HEADS
        | {
            "sample_size": SIDE,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": TEXT,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 16,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        lambda: _image(pooled_projections=t(1, 8)),
        "3.5",
    ),
    Case(
        "SanaTransformer2DModel",
        _HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": TEXT,
            "sample_size": SIDE,
        },
        _image,
    ),
    Case(
        "SanaVideoTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 24,
            "caption_channels": TEXT,
            "sample_size": SIDE,
        },
        _video,
    ),
    Case("SkyReelsV2Transformer3DModel", _WAN, _video),
    Case(
        "StableAudio3DiTModel",
        {
            "io_channels": 4,
            "embed_dim": 16,
            "depth": 1,
            "num_heads": 2,
            "cond_token_dim": TEXT,
            "global_cond_dim": TEXT,
            "local_add_cond_dim": 5,
            "timestep_features_dim": 8,
            "num_memory_tokens": 2,
        },
        lambda: {
            "hidden_states": t(1, 4, 8),
            "timestep": HALF,
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "global_hidden_states": t(1, TEXT),
            "local_add_cond": t(1, 5, 8),
        },
    ),
    Case(
        "StableAudioDiTModel",
        {
            "sample_size": SIDE,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "num_key_value_attention_heads": 1,
            "cross_attention_dim": 8,
            "time_proj_dim": 8,
            "global_states_input_dim": TEXT,
            "cross_attention_input_dim": TEXT,
        },
        lambda: {
            "hidden_states": t(1, 4, SIDE),
            "timestep": HALF,
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "global_hidden_states": t(1, 1, TEXT),
            "rotary_embedding": (t(SIDE + 1, 4), t(SIDE + 1, 4)),
        },
    ),
    Case(
        "StableCascadeUNet",
        {
            "in_channels": 4,
            "out_channels": 4,
            "timestep_ratio_embedding_dim": 8,
            "conditioning_dim": 16,
            "block_out_channels": (8, 8),
            "num_attention_heads": (2, 2),
            "down_num_layers_per_block": (1, 1),
            "up_num_layers_per_block": (1, 1),
            "clip_text_in_channels": TEXT,
            "clip_text_pooled_in_channels": TEXT,
            "clip_image_in_channels": TEXT,
            "clip_seq": 2,
            "switch_level": (False,),
        },
        lambda: {
            "sample": t(1, 4, SIDE, SIDE),
            "timestep_ratio": HALF,
            "clip_text_pooled": t(1, 1, TEXT),
            "clip_text": t(1, TOKENS, TEXT),
            "clip_img": t(1, 1, TEXT),
        },
        "prior",
    ),
    Case(
        "StableCascadeUNet",
        {
            "in_channels": 4,
            "out_channels": 4,
            "timestep_ratio_embedding_dim": 8,
            "patch_size": 2,
            "conditioning_dim": 16,
            "block_out_channels": (8, 16),
            "num_attention_heads": (2, 2),
            "down_num_layers_per_block": (1, 1),
            "up_num_layers_per_block": (1, 1),
            "down_blocks_repeat_mappers": (1, 1),
            "up_blocks_repeat_mappers": (1, 2),
            "block_types_per_layer": (
                ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
            ),
            "clip_text_pooled_in_channels": TEXT,
            "clip_seq": 2,
            "effnet_in_channels": 4,
            "pixel_mapper_in_channels": 3,
            "timestep_conditioning_type": ("sca",),
        },
        lambda: {
            "sample": t(1, 4, 16, 16),
            "timestep_ratio": HALF,
            "clip_text_pooled": t(1, 1, TEXT),
            "effnet": t(1, 4, 4, 4),
            "pixels": t(1, 3, 8, 8),
        },
        "decoder",
    ),
    Case(
        "T5FilmDecoder",
        {
            "input_dims": 4,
            "targets_length": SIDE,
            "d_model": 16,
            "num_layers": 1,
            "num_heads": 2,
            "d_kv": 8,
            "d_ff": 24,
        },
        lambda: {
            "encodings_and_masks": [(t(1, TOKENS, 16), yes(1, TOKENS, dtype=torch.float32))],
            "decoder_input_tokens": t(1, SIDE, 4),
            "decoder_noise_time": HALF,
        },
    ),
    Case(
        "Transformer2DModel",
        _HEADS | {"in_channels": 16, "norm_num_groups": 4, "cross_attention_dim": TEXT},
        lambda: {"hidden_states": t(1, 16, SIDE, SIDE), "encoder_hidden_states": t(1, TOKENS, TEXT)},
    ),
    Case(
        "Transformer2DModel",
        _HEADS
        | {"sample_size": 4, "num_vector_embeds": 16, "num_embeds_ada_norm": 10, "norm_type": "ada_norm"},
        lambda: {"hidden_states": ids(1, 16, below=15), "timestep": torch.tensor(3)},
        "tokens",
    ),
    Case(
        "TransformerTemporalModel",
        _HEADS | {"in_channels": 16, "norm_num_groups": 4},
        lambda: {"hidden_states": t(2, 16, SIDE, SIDE), "num_frames": 2},
    ),
    Case(
        "UNet1DModel",
        {
            "sample_size": 64,
            "in_channels": 2,
            "out_channels": 2,
            "extra_in_channels": 64,
            "block_out_channels": (32, 32, 64),
            "norm_num_groups": 4,
        },
        lambda: {"sample": t(1, 2, 64), "timestep": LONG_STEP},
    ),
    Case(
        "UNet1DModel",
        {
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embedding_type": "positional",
            "use_timestep_embedding": True,
            "flip_sin_to_cos": False,
            "freq_shift": 1.0,
            "down_block_types": ("DownResnetBlock1D", "DownResnetBlock1D"),
            "up_block_types": ("UpResnetBlock1D",),
            "mid_block_type": "MidResTemporalBlock1D",
            "out_block_type": "OutConv1DBlock",
            "block_out_channels": (8, 16),
            "act_fn": "swish",
            "norm_num_groups": 4,
        },
        lambda: {"sample": t(1, 4, 16), "timestep": LONG_STEP},
        "resnet",
    ),
    Case("UNet2DConditionModel", _CROSS_UNET, _unet),
    Case(
        "UNet2DConditionModel",
        _CROSS_UNET
        | {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 32,
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
        },
        lambda: _unet(added_cond_kwargs={"text_embeds": t(1, 8), "time_ids": t(1, 6)}),
        "xl",
    ),
    Case(
        "UNet2DConditionModel",
        _CROSS_UNET
        | {
            "encoder_hid_dim": 10,
            "encoder_hid_dim_type": "text_image_proj",
            "addition_embed_type": "text_image",
            "addition_embed_type_num_heads": 2,
        },
        lambda: _unet(
            encoder_hidden_states=t(1, TOKENS, 10),
            added_cond_kwargs={"image_embeds": t(1, TEXT), "text_embeds": t(1, TEXT)},
        ),
        "kandinsky",
    ),
    Case(
        "UNet2DConditionModel",
        _CROSS_UNET
        | {
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "in_channels": 3,
            "out_channels": 6,
            "encoder_hid_dim": 10,
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 2,
            "class_embed_type": "timestep",
            "time_embedding_act_fn": "gelu",
            "resnet_time_scale_shift": "scale_shift",
            "only_cross_attention": True,
        },
        lambda: _unet(3, encoder_hidden_states=t(1, TOKENS, 10), class_labels=LONG_STEP),
        "deepfloyd",
    ),
    Case(
        "UNet2DModel",
        _SMALL_UNET
        | {
            "sample_size": SIDE,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
        },
        lambda: {"sample": t(1, 3, SIDE, SIDE), "timestep": LONG_STEP},
    ),
    Case(
        "UNet2DModel",
        _SMALL_UNET
        | {
            "sample_size": SIDE,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
            "num_class_embeds": 10,
        },
        lambda: {"sample": t(1, 3, SIDE, SIDE), "timestep": LONG_STEP, "class_labels": ids(1)},
        "classes",
    ),
    Case(
        "UNet3DConditionModel",
        _SMALL_UNET
        | {
            "sample_size": SIDE,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "cross_attention_dim": TEXT,
            "attention_head_dim": 4,
        },
        _unet_video,
    ),
    Case(
        "UNetControlNetXSModel",
        {
            "sample_size": SIDE,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "cross_attention_dim": TEXT,
            "num_attention_heads": 2,
            "upcast_attention": False,
            "ctrl_conditioning_embedding_out_channels": (4, 4),
            "ctrl_block_out_channels": (4, 8),
            "ctrl_num_attention_heads": 2,
            "ctrl_max_norm_num_groups": 4,
        },
        lambda: _unet(controlnet_cond=t(1, 3, 2 * SIDE, 2 * SIDE)),
    ),
    Case(
        "UNetMotionModel",
        _SMALL_UNET
        | {
            "sample_size": SIDE,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "cross_attention_dim": TEXT,
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
        },
        lambda: _unet_video(encoder_hidden_states=t(2, TOKENS, TEXT)),
    ),
    Case(
        "UNetSpatioTemporalConditionModel",
        {
            "sample_size": SIDE,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "block_out_channels": (32, 64),
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 12,
            "layers_per_block": 1,
            "cross_attention_dim": TEXT,
            "num_attention_heads": 2,
        },
        lambda: (
            _unet(encoder_hidden_states=t(1, 1, TEXT), added_time_ids=t(1, 3))
            | {"sample": t(1, 2, 8, SIDE, SIDE)}
        ),
    ),
    Case(
        "UVit2DModel",
        {
            "hidden_size": 16,
            "cond_embed_dim": 8,
            "micro_cond_encode_dim": 4,
            "micro_cond_embed_dim": 20,
            "encoder_hidden_size": TEXT,
            "vocab_size": 20,
            "codebook_size": 16,
            "in_channels": 16,
            "block_out_channels": 16,
            "num_res_blocks": 1,
            "block_num_heads": 2,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "sample_size": SIDE,
        },
        lambda: {
            "input_ids": ids(1, SIDE, SIDE, below=20),
            "encoder_hidden_states": t(1, TOKENS, TEXT),
            "pooled_text_emb": t(1, 8),
            "micro_conds": t(1, 5),
        },
    ),
    Case(
        "UniDiffuserModel",
        {
            "text_dim": TEXT,
            "clip_img_dim": 8,
            "num_text_tokens": TOKENS,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "sample_size": SIDE,
            "patch_size": 2,
            "activation_fn": "gelu",
            "norm_type": "layer_norm",
            "block_type": "unidiffuser",
            "pre_layer_norm": False,
            "use_timestep_embedding": False,
            "norm_elementwise_affine": True,
            "use_patch_pos_embed": False,
            "ff_final_dropout": True,
            "use_data_type_embedding": True,
        },
        lambda: {
            "latent_image_embeds": t(1, 4, SIDE, SIDE),
            "image_embeds": t(1, 1, 8),
            "prompt_embeds": t(1, TOKENS, TEXT),
            "timestep_img": LONG_STEP,
            "timestep_text": LONG_STEP,
        },
    ),
    Case(
        "WanAnimateTransformer3DModel",
        _WAN
        | {
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 6,
            "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 2,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 1,
        },
        lambda: _video(
            12,
            frames=2,
            encoder_hidden_states_image=t(1, 3, 6),
            pose_hidden_states=t(1, 4, 1, SIDE, SIDE),
            face_pixel_values=t(1, 3, 4, 16, 16),
        ),
    ),
    Case("WanTransformer3DModel", _WAN, _video),
    Case(
        "WanTransformer3DModel",
        _WAN | {"image_dim": 6, "added_kv_proj_dim": 24},
        lambda: _video(encoder_hidden_states_image=t(1, 3, 6)),
        "image-to-video",
    ),
    Case(
        "WanVACETransformer3DModel",
        _WAN | {"vace_layers": [0, 1], "vace_in_channels": 8},
        lambda: _video(
            control_hidden_states=t(1, 8, 2, SIDE, SIDE), control_hidden_states_scale=torch.ones(2)
        ),
    ),
    Case(
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": TEXT,
            "axes_dims": [4, 6, 6],
            "axes_lens": [64, 32, 32],
        },
        lambda: {"x": [t(4, 1, SIDE, SIDE)], "t": HALF, "cap_feats": [t(TOKENS, TEXT)]},
    ),
)
