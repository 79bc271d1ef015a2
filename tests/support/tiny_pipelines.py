"""Tiny random pipelines of many families, built in milliseconds from stock parts, and tiny denoisers."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from support.families import FAMILIES
from support.tiny import tiny_pixart
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from qsd.zoo.tokenizers import clip_tokenizer, t5_tokenizer

PROMPTS = ["a thin zero", "a bold seven slanted left", "a three", "a one"]


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


def tiny_vae(num_stages: int = 2, **config: Any) -> AutoencoderKL:
    """Four latent channels; an image has 2 ** (num_stages - 1) pixels per latent."""
    torch.manual_seed(0)
    return AutoencoderKL(
        **{
            "block_out_channels": (8,) * num_stages,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "sample_size": 8 * 2 ** (num_stages - 1),
            "down_block_types": ("DownEncoderBlock2D",) * num_stages,
            "up_block_types": ("UpDecoderBlock2D",) * num_stages,
            "mid_block_add_attention": False,
            **config,
        }
    ).eval()


def tiny_t5(width: int = 12) -> T5EncoderModel:
    """One block; knows the tokens of either tokenizer."""
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=len(clip_tokenizer(77)), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config).eval()


def tiny_clip(cls: type[nn.Module] = CLIPTextModel, width: int = 12) -> Any:
    """Two blocks, with a projection to its own width if the class has one."""
    torch.manual_seed(2)
    tokenizer = clip_tokenizer(77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return cls(config).eval()


def tiny_bert(width: int = 12) -> tuple[BertModel, BertTokenizer]:
    """One block, a token per letter."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=77)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=77,
    )
    return BertModel(config, add_pooling_layer=False).eval(), tokenizer


def random_denoiser(family: str, **changes: Any) -> Any:
    """A tiny denoiser of a family of `families.py`."""
    torch.manual_seed(0)
    known = FAMILIES[family]
    return getattr(diffusers, known.cls)(**(known.full | known.tiny | changes)).eval()


def tiny_pipeline() -> diffusers.PixArtAlphaPipeline:
    """PixArt-alpha without a text encoder."""
    return diffusers.PixArtAlphaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=tiny_vae(),
        transformer=tiny_pixart(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def pixart_alpha() -> Any:
    return diffusers.PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=tiny_vae(),
        transformer=tiny_pixart(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def pixart_sigma() -> Any:
    return diffusers.PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=tiny_vae(),
        transformer=random_denoiser("pixart_sigma", in_channels=4, out_channels=8),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def hunyuan() -> Any:
    text_encoder, tokenizer = tiny_bert()
    return diffusers.HunyuanDiTPipeline(
        vae=tiny_vae(num_stages=4),  # its rotary embedding assumes 8 pixels per latent
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=tiny_t5(width=24),
        tokenizer_2=t5_tokenizer(),
        transformer=random_denoiser("hunyuan_dit", text_len=77, text_len_t5=256, num_layers=4),
        scheduler=diffusers.DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        text_encoder_2=tiny_clip(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(77),
        tokenizer_2=clip_tokenizer(77),
        unet=random_denoiser("sdxl", cross_attention_dim=24),
        scheduler=diffusers.EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def sd15() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(77),
        unet=random_denoiser("sd15"),
        scheduler=diffusers.EulerAncestralDiscreteScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def dit() -> Any:
    """Stores one timestep embedder once per block, as published checkpoints do."""
    transformer = random_denoiser("dit", num_embeds_ada_norm=len(PROMPTS))
    first = transformer.transformer_blocks[0].norm1.emb
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first.state_dict())
    names = dict(enumerate(PROMPTS))
    pipe = diffusers.DiTPipeline(
        transformer=transformer,
        vae=tiny_vae(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        id2label=names,
    )
    pipe.register_to_config(id2label=names)  # or it would be saved without them
    return pipe


PAPER_PIPELINES: dict[str, Callable[[], Any]] = {
    "pixart_alpha": pixart_alpha,
    "pixart_sigma": pixart_sigma,
    "hunyuan": hunyuan,
    "sdxl": sdxl,
    "sd15": sd15,
    "dit": dit,
}
"""The six families of the paper."""


def unconditional() -> diffusers.DDPMPipeline:
    """Draws from noise alone: DDPM over a U-Net of two stages, one with attention."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).eval()
    return diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler())
