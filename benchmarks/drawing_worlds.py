"""The newest large pipelines: worlds that a camera moves in, sound and video at once, pictures of tokens."""

import functools
from typing import Any

import diffusers
import torch
import transformers
from drawing_case import (
    ANIMATE,
    FRAMES,
    FROM_TEXT,
    LARGER,
    LTX2,
    PICTURES,
    VIDEO,
    Drawing,
    drawings,
    of,
)
from drawing_moving import loud
from drawing_parts import PARTS, TEXT, chat_tokenizer, flux2_vae, seeded
from drawing_seeing import marked_tokenizer, qwen2_5_pictures, qwen3_pictures, seeing, seeing3
from support.sounding import ltx2_parts
from support.tiny_pipelines import tiny_vae


def _waking(cls: str, **config: Any) -> Any:
    """A denoiser of which no layer is left zero, as many are where training begins."""
    denoiser = seeded(cls, **config)()
    for parameter in denoiser.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1)
    return denoiser


_CAMERA: dict[str, Any] = {"action": "w-8", "intrinsics": [32.0, 32.0, 16.0, 16.0]}
_SANA_WM = {
    "vae": LTX2["vae"],
    "transformer": functools.partial(
        _waking,
        "SanaWMTransformer3DModel",
        in_channels=4,
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=8,
        caption_channels=TEXT,
        image_size=32,
    ),
}


def _sharper_vae() -> Any:
    return loud(
        "Kandinsky6SRVAE",
        latent_channels=8,
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        layers_per_block=1,
    )()


def _marked_ltx2() -> Any:
    """With the marks of key frames."""
    config = {**ltx2_parts()["transformer"].config, "use_keyframes_abs_pos_embedding": True}
    return _waking("LTX2VideoTransformer3DModel", **config)


def _glm_tokenizer() -> Any:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'][-1]['text'] }}"
    marks = {
        "image_token": "<|image|>",
        "grid_bos_token": "<sop>",
        "grid_eos_token": "<eop>",
        "begin_of_image": "<|dit_token_16384|>",
        "end_of_image": "<|dit_token_16385|>",
    }
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks.values()]})
    for name, mark in marks.items():
        setattr(tokenizer, name, mark)
    return tokenizer


def _glm_processor() -> Any:
    from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil

    tokenizer = _glm_tokenizer()
    return transformers.GlmImageProcessor(
        GlmImageImageProcessorPil(), tokenizer, chat_template=tokenizer.chat_template
    )


def _glm() -> Any:
    """Writes the tokens that a picture is drawn from."""
    torch.manual_seed(14)
    tokenizer = _glm_tokenizer()
    text = {
        "vocab_size": len(tokenizer) + 16,
        "vision_vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "eos_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 1.0,
        },
    }
    vision = {"depth": 1, "hidden_size": 8, "num_heads": 2, "image_size": 64, "intermediate_size": 8}
    tokens = {"embed_dim": 8, "num_embeddings": 16, "latent_channels": 8}
    config = transformers.GlmImageConfig(
        text_config=text,
        vision_config=vision,
        vq_config=tokens,
        image_token_id=tokenizer.convert_tokens_to_ids(tokenizer.image_token),
        image_start_token_id=tokenizer.convert_tokens_to_ids(tokenizer.begin_of_image),
        image_end_token_id=tokenizer.convert_tokens_to_ids(tokenizer.end_of_image),
    )
    return transformers.GlmImageForConditionalGeneration(config).eval()


def _omni() -> Any:
    return _waking(
        "Cosmos3OmniTransformer",
        head_dim=8,
        hidden_size=16,
        intermediate_size=24,
        latent_channel=4,
        patch_latent_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=1,
        vocab_size=len(marked_tokenizer()),
        rope_axes_dim=[2, 1, 1],
    )


WORLDS: tuple[Drawing, ...] = (
    *drawings(ANIMATE, "SanaWMPipeline", _SANA_WM, recorded=True, call=_CAMERA, num_frames=9, **PICTURES),
    *drawings(
        LARGER,
        "Kandinsky6SRPipeline",
        {
            "transformer": of("Kandinsky6SRTransformer3DModel", tile_sizes=((32, 32), (32, 48), (48, 32))),
            "vae": _sharper_vae,
        },
        prompts=None,
        **PICTURES,
    ),
    *drawings(
        VIDEO,
        "Kandinsky6TI2VAPipeline",
        {
            "transformer": of("Kandinsky6Transformer3DModel", in_text_dim2=TEXT),
            "text_encoder": seeing,
            "tokenizer": qwen2_5_pictures,
        },
        in_memory=True,
        recorded=True,
        call={"sample_audio": False},
        **FRAMES,
    ),
    *drawings(
        FROM_TEXT,
        "BriaFibo2Pipeline",
        {
            "transformer": of(
                "BriaFibo2Transformer2DModel",
                cap_feat_dim=3 * TEXT,
                n_layers=6,
                injection_layer_ids=(1, 2, 3, 4, 5),
                axes_lens=(1024, 32, 32),
            ),
            "vae": functools.partial(flux2_vae, latent_channels=4),
            "text_encoder": seeing3,
            "processor": qwen3_pictures,
        },
        in_memory=True,
    ),
    *drawings(
        "text to video and sound",
        "LTX2DFRPipeline",
        LTX2 | {"transformer": _marked_ltx2},
        num_frames=9,
        call={"sigmas": [1.0, 0.7]},
    ),
    *drawings(
        FROM_TEXT,
        "GlmImagePipeline",
        {
            "tokenizer": PARTS["ByT5Tokenizer"],
            "processor": _glm_processor,
            "vision_language_encoder": _glm,
            "vae": functools.partial(tiny_vae, 4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        },
        in_memory=True,
        side=64,
        batch_size=1,
    ),
    *drawings(
        VIDEO,
        "Cosmos3OmniPipeline",
        {
            "transformer": _omni,
            "text_tokenizer": marked_tokenizer,
            "scheduler": lambda: diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True
            ),
            "enable_safety_checker": lambda: False,
        },
        batch_size=1,
        **FRAMES,
    ),
)
