"""Tiny random pipelines of families for which labeling has no code of its own."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from support.tiny_pipelines import random_denoiser, tiny_clip, tiny_t5, tiny_vae
from transformers import CLIPTextModelWithProjection

from qsd.zoo.tokenizers import clip_tokenizer, t5_tokenizer

_CHAT = "{{ messages[0]['content'] }}"


def flux() -> Any:
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(latent_channels=1, scaling_factor=0.36, shift_factor=0.11),
        text_encoder=tiny_clip(width=6),
        tokenizer=clip_tokenizer(77),
        text_encoder_2=tiny_t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=random_denoiser("flux"),
    )


def sd3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=random_denoiser("sd35", pooled_projection_dim=12),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=tiny_clip(CLIPTextModelWithProjection, width=6),
        tokenizer=clip_tokenizer(77),
        text_encoder_2=tiny_clip(CLIPTextModelWithProjection, width=6),
        tokenizer_2=clip_tokenizer(77),
        text_encoder_3=tiny_t5(),
        tokenizer_3=t5_tokenizer(),
    )


def auraflow() -> Any:
    return diffusers.AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=tiny_vae(scaling_factor=0.13),
        transformer=random_denoiser("auraflow"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def sana() -> Any:
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41,
    )
    return diffusers.SanaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=vae,
        transformer=random_denoiser("sana"),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        ),
    )


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=random_denoiser("lumina2", axes_lens=(512, 32, 32)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=tiny_t5(),
        tokenizer=t5_tokenizer(),
    )


def wan() -> Any:
    """Draws videos; its VAE has one latent frame for four frames."""
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4,
        latents_std=[2.0] * 4,
    )
    return diffusers.WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=random_denoiser("wan"),
    )


def wan22() -> Any:
    """Two denoisers: one for high and one for low noise."""
    pipe = wan()
    second = random_denoiser("wan")
    for parameter in second.parameters():
        parameter.data.mul_(0.9)
    return diffusers.WanPipeline(**pipe.components | {"transformer_2": second}, boundary_ratio=0.9)


def amused() -> Any:
    """Denoises tokens of a codebook, as Muse does."""
    torch.manual_seed(0)
    transformer = diffusers.UVit2DModel(
        hidden_size=16,
        cond_embed_dim=12,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=20,
        encoder_hidden_size=12,
        vocab_size=20,
        codebook_size=16,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        block_num_heads=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        sample_size=8,
    )
    vqvae = diffusers.VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_num_groups=4,
        lookup_from_codebook=True,
    )
    return diffusers.AmusedPipeline(
        vqvae=vqvae.eval(),
        tokenizer=clip_tokenizer(77),
        text_encoder=tiny_clip(CLIPTextModelWithProjection),
        transformer=transformer.eval(),
        scheduler=diffusers.AmusedScheduler(mask_token_id=19),
    )


def z_image() -> Any:
    tokenizer = t5_tokenizer()
    tokenizer.chat_template = _CHAT
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=tiny_t5(),
        tokenizer=tokenizer,
        transformer=random_denoiser("z_image"),
    )


def qwen_image() -> Any:
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=6,
        z_dim=1,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0],
        latents_std=[1.0],
    )
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=tiny_t5(),
        tokenizer=clip_tokenizer(1024),
        transformer=random_denoiser("qwen_image"),
    )


def deepfloyd() -> Any:
    """Draws pixels without a VAE."""
    return diffusers.IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        unet=random_denoiser("sd15", in_channels=3, out_channels=6, sample_size=16),
        scheduler=diffusers.DDPMScheduler(variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


UNSEEN_PIPELINES: dict[str, Callable[[], Any]] = {
    "flux": flux,
    "sd3": sd3,
    "auraflow": auraflow,
    "sana": sana,
    "lumina2": lumina2,
    "wan": wan,
    "z_image": z_image,
    "qwen_image": qwen_image,
    "deepfloyd": deepfloyd,
    "amused": amused,
}
