"""Pipelines whose text encoders see the picture: edits by Qwen-VL, and videos by LLaVA.

Their processors need torchvision for videos, which these pictures do without.
"""

import functools
from typing import Any

import torch
import transformers
from drawing_case import (
    ANIMATE,
    EDIT,
    FRAMES,
    FROM_TEXT,
    HUNYUAN_VIDEO,
    INPAINT,
    MASKED,
    PICTURES,
    Drawing,
    drawings,
    of,
)
from drawing_moving import loud
from drawing_parts import chat_tokenizer, clip_vision, language_model, qwen3_vl, qwen_vl
from support.tiny_pipelines import tiny_vae

_MARKS = ("image_pad", "video_pad", "vision_start", "vision_end", "im_start", "im_end")
_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_LOOK = 56
"""Pixels a side of what the text encoder sees: 16 patches, 4 tokens."""


def marked_tokenizer() -> Any:
    """With tokens that mark pictures."""
    tokenizer = chat_tokenizer(4096)
    tokenizer.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in _MARKS]})
    return tokenizer


def _tokens() -> dict[str, int]:
    """Size of its vocabulary, and which token is which."""
    tokenizer = marked_tokenizer()
    known = {
        name: tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
        for name, mark in zip(_TOKENS, _MARKS, strict=False)
    }
    return known | {"vocabulary": len(tokenizer)}


class _Pictures:
    """A processor without videos."""

    def check_argument_for_proper_class(self, _: str, argument: Any) -> type:
        return type(argument)


class _Qwen2Pictures(_Pictures, transformers.Qwen2VLProcessor):
    pass


class _Qwen25Pictures(_Pictures, transformers.Qwen2_5_VLProcessor):
    pass


class _Qwen3Pictures(_Pictures, transformers.Qwen3VLProcessor):
    pass


def _processor(cls: type[Any], patch: int) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": _LOOK**2, "longest_edge": _LOOK**2}
    tokenizer = marked_tokenizer()
    pictures = Qwen2VLImageProcessorPil(size=size, patch_size=patch)
    return cls(pictures, tokenizer, None, chat_template=tokenizer.chat_template)


def seeing() -> Any:
    return qwen_vl(**_tokens())


def seeing3() -> Any:
    return qwen3_vl("Qwen3VLForConditionalGeneration", **_tokens())


qwen2_pictures = functools.partial(_processor, _Qwen2Pictures, 14)
qwen2_5_pictures = functools.partial(_processor, _Qwen25Pictures, 14)
qwen3_pictures = functools.partial(_processor, _Qwen3Pictures, 16)


def _deep_vae(channels: int = 3) -> Any:
    """One latent for 32 by 32 pixels: pictures are edited in about a million pixels, whatever their size."""
    return loud(
        "AutoencoderKLQwenImage",
        base_dim=2,
        z_dim=1,
        dim_mult=[1, 1, 1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, False, False, False, False],
        input_channels=channels,
        latents_mean=[0.0],
        latents_std=[1.0],
    )()


def _deep_wan_vae() -> Any:
    return loud(
        "AutoencoderKLWan",
        base_dim=2,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, False, False, False, False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_spatial=32,
    )()


def _rgba_vae() -> Any:
    return loud(
        "AutoencoderKLQwenImage21",
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )()


_HEADER = "<|start_header_id|>{}<|end_header_id|>"
_CHAT = f"{_HEADER.format('<|system|>')}<image>look<|eot_id|>"
_CHAT += f"{_HEADER.format('<|user|>')}{{}}<|eot_id|>{_HEADER.format('<|assistant|>')}"
_CHAT_MARKS = ("start_header_id", "end_header_id", "eot_id", "system", "user", "assistant")


def _llava_tokenizer() -> Any:
    tokenizer = chat_tokenizer()
    marks = ["<image>", *(f"<|{mark}|>" for mark in _CHAT_MARKS)]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def _llava() -> Any:
    """Sees a picture as 576 tokens, as the real one does."""
    tokenizer = _llava_tokenizer()
    vision = clip_vision(side=48).config
    vision.patch_size = 2
    text = language_model("LlamaModel", "LlamaConfig", vocab_size=len(tokenizer), num_hidden_layers=3).config
    torch.manual_seed(12)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.LlavaForConditionalGeneration(config).eval()


def _large_pictures() -> Any:
    side = {"height": 48, "width": 48}
    return transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=side)


_EDITING = {
    "vae": _deep_vae,
    "text_encoder": seeing,
    "tokenizer": marked_tokenizer,
    "processor": qwen2_pictures,
}
_LAYERED = _EDITING | {
    "vae": functools.partial(_deep_vae, 4),
    "transformer": of("QwenImageTransformer2DModel", use_additional_t_cond=True, use_layer3d_rope=True),
}
_WIDE: dict[str, Any] = {"in_memory": True, "side": 64}

_LLAVA = HUNYUAN_VIDEO | {
    "text_encoder": _llava,
    "tokenizer": _llava_tokenizer,
    "image_processor": _large_pictures,
    "transformer": of(
        "HunyuanVideoTransformer3DModel",
        pooled_projection_dim=12,
        in_channels=9,
        out_channels=4,
        image_condition_type="latent_concat",
    ),
}
_BEFORE_PROMPT = 13
_TEMPLATE = {
    "template": _CHAT,
    "crop_start": _BEFORE_PROMPT,
    "image_emb_start": 4,
    "image_emb_end": 580,
    "image_emb_len": 576,
}

SEEING: tuple[Drawing, ...] = (
    *drawings(EDIT, "QwenImageEditPipeline QwenImageEditPlusPipeline", _EDITING, **_WIDE, **PICTURES),
    *drawings(INPAINT, "QwenImageEditInpaintPipeline", _EDITING, **_WIDE, **MASKED),
    *drawings("decomposition", "QwenImageLayeredPipeline", _LAYERED, call={"layers": 2}, **_WIDE, **PICTURES),
    *drawings(
        ANIMATE,
        "HunyuanVideoImageToVideoPipeline",
        _LLAVA,
        call={"prompt_template": _TEMPLATE},
        **FRAMES,
        **PICTURES,
    ),
    *drawings(
        EDIT,
        "LongCatImageEditPipeline",
        {
            "transformer": of("LongCatImageTransformer2DModel", in_channels=64),
            "vae": functools.partial(
                tiny_vae,
                6,
                block_out_channels=(4,) * 6,
                latent_channels=16,
                scaling_factor=0.36,
                shift_factor=0.11,
            ),
            "text_encoder": seeing,
            "tokenizer": marked_tokenizer,
            "text_processor": qwen2_pictures,
        },
        in_memory=True,
        **PICTURES,
    ),
    *drawings(
        EDIT,
        "Kandinsky5I2IPipeline",
        {
            "transformer": of("Kandinsky5Transformer3DModel", in_text_dim2=12, visual_cond=True),
            "vae": functools.partial(tiny_vae, 4, block_out_channels=(4,) * 4),
            "text_encoder": seeing,
            "tokenizer": qwen2_pictures,
        },
        in_memory=True,
        **PICTURES,
    ),
    *drawings(
        EDIT,
        "JoyImageEditPipeline",
        {
            "vae": _deep_wan_vae,
            "text_encoder": seeing3,
            "tokenizer": marked_tokenizer,
            "processor": qwen3_pictures,
        },
        in_memory=True,
        **PICTURES,
    ),
    *drawings(
        FROM_TEXT,
        "QwenImage21Pipeline",
        {"vae": _rgba_vae, "text_encoder": seeing3, "processor": qwen3_pictures},
        in_memory=True,
    ),
)
