"""A tiny random pipeline that draws videos with sound (LTX-2)."""

from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

from qsd.zoo.tokenizers import clip_tokenizer

_TEXT, _SIDE = 12, 8
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6}


def ltx2_parts() -> dict[str, Any]:
    """Its components by name, with the same weights in every call."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(1024)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8, 16, 32, 64),
        decoder_block_out_channels=(16, 32, 64),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        patch_size=1,
        spatial_compression_ratio=8,
        temporal_compression_ratio=8,
    )
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=16,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        mel_bins=32,
    )
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=16,
        audio_out_channels=16,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=_TEXT,
    )
    modules = {
        "vae": vae,
        "audio_vae": audio_vae,
        "transformer": transformer,
        "text_encoder": _text_encoder(len(tokenizer)),
        "connectors": _connectors(),
        "vocoder": LTX2Vocoder(
            in_channels=64,
            hidden_channels=32,
            out_channels=2,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
            output_sampling_rate=16_000,
        ),
    }
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    evaluated = {name: module.eval() for name, module in modules.items()}
    return evaluated | {"tokenizer": tokenizer, "scheduler": scheduler}


def ltx2() -> Any:
    """The pipeline."""
    return diffusers.LTX2Pipeline(**ltx2_parts())


def _text_encoder(vocabulary: int) -> Any:
    text = {"vocab_size": vocabulary, "hidden_size": _TEXT, "intermediate_size": 16, "num_hidden_layers": 2}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text | _HEADS,
        vision_config=vision | {"image_size": _SIDE, "patch_size": 4},
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _connectors() -> Any:
    return LTX2TextConnectors(
        caption_channels=_TEXT,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=6,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=6,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    )
