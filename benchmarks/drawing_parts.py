"""Tiny components of pipelines, by the class that a pipeline's constructor asks for."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from coverage_cases import CASES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.tiny_pipelines import tiny_bert, tiny_clip, tiny_t5, tiny_vae
from support.unseen_pipelines import amused, qwen_image, sana, wan

from qsd.zoo.tokenizers import clip_tokenizer, t5_tokenizer

TEXT, CLIP_SIDE = 12, 8
_CHAT = "{{ messages[0]['content'] }}"


def denoiser(cls: str, variant: str = "", **changes: Any) -> Any:
    """The tiny denoiser of ``coverage_cases.py``, of another config."""
    cases = [case for case in CASES if case.cls == cls and case.variant == variant]
    if not cases:
        raise LookupError(f"nothing makes {cls}")
    torch.manual_seed(0)
    module = getattr(diffusers, cls)(**cases[0].config | changes).eval()
    for name, parameter in module.named_parameters():
        if name == "clip_std":  # which diffusers leaves zero
            parameter.data.fill_(1.0)
        elif ".experts." in name and parameter.ndim == 3:  # which it leaves uninitialized
            torch.nn.init.normal_(parameter, std=0.05)
    return module


def clip_vision(cls: str = "CLIPVisionModelWithProjection", width: int = TEXT, side: int = CLIP_SIDE) -> Any:
    torch.manual_seed(4)
    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=side // 2,
        projection_dim=width,
    )
    return getattr(transformers, cls)(config).eval()


def clip_images() -> Any:
    side = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    return transformers.CLIPImageProcessor(size={"shortest_edge": CLIP_SIDE}, crop_size=side)


def siglip_vision() -> Any:
    torch.manual_seed(5)
    config = transformers.SiglipVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=CLIP_SIDE,
        patch_size=4,
    )
    return transformers.SiglipVisionModel(config).eval()


def siglip_images() -> Any:
    return transformers.SiglipImageProcessor(size={"height": CLIP_SIDE, "width": CLIP_SIDE})


def language_model(cls: str, config: str, **changes: Any) -> Any:
    """Two blocks, width 12, with the vocabulary of the CLIP tokenizer."""
    torch.manual_seed(6)
    sizes = {
        "vocab_size": len(clip_tokenizer(77)),
        "hidden_size": TEXT,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "pad_token_id": 0,
    }
    return getattr(transformers, cls)(getattr(transformers, config)(**sizes | changes)).eval()


_QWEN_TEXT: dict[str, Any] = {
    "hidden_size": TEXT,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 1e4},
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 2,
    "out_hidden_size": TEXT,
}


def qwen_vl(vocabulary: int = 0, **tokens: int) -> Any:
    """Text and vision, width 12, with the vocabulary of the CLIP tokenizer if no other size is given."""
    torch.manual_seed(7)
    text = _QWEN_TEXT | {"vocab_size": vocabulary or len(clip_tokenizer(77)), "num_hidden_layers": 2}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=_QWEN_VISION, **tokens)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3_vl(cls: str, vocabulary: int = 0, **tokens: int) -> Any:
    """Likewise, of 36 blocks."""
    torch.manual_seed(7)
    sizes = {"vocab_size": vocabulary or len(clip_tokenizer(77)), "num_hidden_layers": 36, "head_dim": 6}
    vision = _QWEN_VISION | {"deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(text_config=_QWEN_TEXT | sizes, vision_config=vision, **tokens)
    return getattr(transformers, cls)(config).eval()


def clap() -> Any:
    torch.manual_seed(9)
    config = transformers.ClapTextConfig(
        vocab_size=len(clip_tokenizer(77)),
        hidden_size=TEXT,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=TEXT,
        max_position_embeddings=520,
        pad_token_id=2,
    )
    return transformers.ClapTextModelWithProjection(config).eval()


def hifi_gan() -> Any:
    torch.manual_seed(10)
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=16,
        sampling_rate=64,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3, 5]],
    )
    return transformers.SpeechT5HifiGan(config).eval()


def chat_tokenizer(length: int = 1024) -> Any:
    tokenizer = clip_tokenizer(length)
    tokenizer.chat_template = _CHAT
    return tokenizer


def clip_text(cls: str, positions: int) -> Any:
    """CLIP that reads longer texts than usual."""
    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokenizer(positions)),
        hidden_size=TEXT,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT,
        max_position_embeddings=positions,
        eos_token_id=1,
        pad_token_id=2,
    )
    return getattr(transformers, cls)(config).eval()


def flux_vae() -> Any:
    """One latent channel, four where 2 by 2 are packed."""
    return tiny_vae(latent_channels=1, scaling_factor=0.36, shift_factor=0.11)


def hunyuan_video_vae(cls: str = "AutoencoderKLHunyuanVideo", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = {
        "latent_channels": 4,
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    }
    return getattr(diffusers, cls)(**config | changes).eval()


def cogvideox_vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    ).eval()


def ltx_vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    ).eval()


def vq_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "num_vq_embeddings": 16,
        "norm_num_groups": 4,
    }
    return diffusers.VQModel(**config | changes).eval()


def paella() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    torch.manual_seed(0)
    sizes = {
        "levels": 2,
        "bottleneck_blocks": 1,
        "embed_dim": 8,
        "latent_channels": 4,
        "num_vq_embeddings": 16,
    }
    return PaellaVQModel(**sizes).eval()


def motion_adapter(**changes: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.MotionAdapter(
        **{
            "block_out_channels": (8, 16),
            "motion_layers_per_block": 1,
            "motion_norm_num_groups": 4,
            "motion_num_attention_heads": 2,
            **changes,
        }
    ).eval()


def oobleck() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 2],
        channel_multiples=[1, 1],
        decoder_channels=4,
        decoder_input_channels=4,
        audio_channels=2,
        sampling_rate=64,
    ).eval()


def temporal_vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        sample_size=16,
    ).eval()


def audio_projection() -> Any:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    torch.manual_seed(0)
    sizes = {"text_encoder_dim": TEXT, "conditioning_dim": TEXT, "min_value": 0, "max_value": 8}
    return StableAudioProjectionModel(**sizes).eval()


def text_projection() -> Any:
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

    torch.manual_seed(0)
    return UnCLIPTextProjModel(clip_embeddings_dim=TEXT, time_embed_dim=32, cross_attention_dim=TEXT).eval()


def text_decoder() -> Any:
    from diffusers.pipelines.deprecated.unidiffuser import UniDiffuserTextDecoder

    torch.manual_seed(0)
    sizes = {"n_positions": 128, "n_embd": TEXT, "n_layer": 1, "n_head": 2}
    return UniDiffuserTextDecoder(77, TEXT, TEXT, len(clip_tokenizer(77)), **sizes).eval()


def image_normalizer() -> Any:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    return StableUnCLIPImageNormalizer(embedding_dim=TEXT).eval()


def seeded(cls: str, **config: Any) -> Callable[[], Any]:
    """Makes a model of diffusers, always with the same weights."""

    def make() -> Any:
        torch.manual_seed(0)
        return getattr(diffusers, cls)(**config).eval()

    return make


def shifted_vae() -> Any:
    return tiny_vae(scaling_factor=1.5, shift_factor=0.06)


def flux2_vae(latent_channels: int = 1) -> Any:
    """By default one latent channel, four where 2 by 2 are packed."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return seeded(
        "AutoencoderKLFlux2",
        **blocks,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
    )()


PARTS: dict[str, Callable[[], Any]] = {
    "AutoencoderKL": tiny_vae,
    "AutoencoderKLFlux2": flux2_vae,
    "AutoencoderKLQwenImage": lambda: qwen_image().vae,
    "AutoencoderTiny": seeded(
        "AutoencoderTiny",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ),
    "AutoencoderKLAllegro": seeded(
        "AutoencoderKLAllegro",
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
    ),
    "AutoencoderKLMochi": seeded(
        "AutoencoderKLMochi",
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        latent_channels=4,
        layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=(0.0,) * 4,
        latents_std=(1.0,) * 4,
    ),
    "AutoencoderKLMagvit": seeded(
        "AutoencoderKLMagvit",
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    ),
    "AutoencoderKLCosmos": seeded(
        "AutoencoderKLCosmos",
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        latents_mean=[0.0] * 4 * 8,
        latents_std=[1.0] * 4 * 8,
    ),
    "AutoencoderKLHunyuanVideo15": seeded(
        "AutoencoderKLHunyuanVideo15",
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8, 8),
        layers_per_block=1,
    ),
    "AutoencoderKLHunyuanImage": seeded(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        spatial_compression_ratio=8,
        sample_size=32,
        scaling_factor=0.5,
    ),
    "Qwen3VLModel": lambda: qwen3_vl("Qwen3VLModel"),
    "Qwen3VLForConditionalGeneration": lambda: qwen3_vl("Qwen3VLForConditionalGeneration"),
    "ClapTextModelWithProjection": clap,
    "SpeechT5HifiGan": hifi_gan,
    "RobertaTokenizer": lambda: chat_tokenizer(),
    "Qwen2VLProcessor": lambda: chat_tokenizer(),
    "CLIPProcessor": clip_images,
    "AutoencoderKLWan": lambda: wan().vae,
    "AutoencoderDC": lambda: sana().vae,
    "AutoencoderKLHunyuanVideo": hunyuan_video_vae,
    "AutoencoderKLCogVideoX": cogvideox_vae,
    "AutoencoderKLLTXVideo": ltx_vae,
    "AutoencoderKLTemporalDecoder": temporal_vae,
    "AutoencoderOobleck": oobleck,
    "VQModel": vq_model,
    "PaellaVQModel": paella,
    "MotionAdapter": motion_adapter,
    "UniDiffuserTextDecoder": text_decoder,
    "GPT2Tokenizer": lambda: chat_tokenizer(),
    "UnCLIPTextProjModel": text_projection,
    "StableUnCLIPImageNormalizer": image_normalizer,
    "StableAudioProjectionModel": lambda: audio_projection(),
    "CLIPTextModel": tiny_clip,
    "CLIPTextModelWithProjection": lambda: tiny_clip(transformers.CLIPTextModelWithProjection),
    "CLIPTokenizer": lambda: clip_tokenizer(77),
    "CLIPVisionModelWithProjection": clip_vision,
    "CLIPVisionModel": lambda: clip_vision("CLIPVisionModel"),
    "CLIPImageProcessorPil": clip_images,
    "SiglipVisionModel": siglip_vision,
    "SiglipImageProcessorPil": siglip_images,
    "BertModel": lambda: tiny_bert()[0],
    "BertTokenizer": lambda: tiny_bert()[1],
    "T5EncoderModel": tiny_t5,
    "UMT5EncoderModel": tiny_t5,
    "PreTrainedModel": tiny_t5,
    "T5Tokenizer": t5_tokenizer,
    "T5TokenizerFast": t5_tokenizer,
    "ByT5Tokenizer": t5_tokenizer,
    "AutoTokenizer": t5_tokenizer,
    "PreTrainedTokenizerBase": t5_tokenizer,
    "GemmaTokenizer": t5_tokenizer,
    "LlamaTokenizer": lambda: chat_tokenizer(),
    "Qwen2Tokenizer": lambda: chat_tokenizer(),
    "Gemma2PreTrainedModel": tiny_t5,
    "GemmaPreTrainedModel": tiny_t5,
    "LlamaForCausalLM": lambda: language_model("LlamaForCausalLM", "LlamaConfig"),
    "TokenizersBackend": lambda: chat_tokenizer(),
    "Qwen3ForCausalLM": lambda: language_model("Qwen3ForCausalLM", "Qwen3Config"),
    "LlamaModel": lambda: language_model("LlamaModel", "LlamaConfig"),
    "GlmModel": lambda: language_model("GlmModel", "GlmConfig"),
    "Qwen3Model": lambda: language_model("Qwen3Model", "Qwen3Config"),
    "SmolLM3ForCausalLM": lambda: language_model("SmolLM3ForCausalLM", "SmolLM3Config", vocab_size=128_001),
    "Qwen2_5_VLForConditionalGeneration": qwen_vl,
    "KarrasDiffusionSchedulers": diffusers.DDIMScheduler,
    "SchedulerMixin": diffusers.FlowMatchEulerDiscreteScheduler,
    "UNet2DConditionModel": lambda: denoiser("UNet2DConditionModel"),
    "AmusedVQModel": lambda: amused().vqvae,
}
"""Class name -> what makes a tiny one; denoisers and schedulers by default are those of their class."""
