"""Further pipelines of videos, sound and solids: variants of those of ``drawing_cases.py``, and rarer ones."""

import functools
from typing import Any

import diffusers
import transformers
from drawing_case import (
    ANIMATE,
    COGVIDEO,
    FRAMES,
    FROM_IMAGE,
    FROM_NOTHING,
    HUNYUAN_VIDEO,
    MASKED,
    PICTURES,
    UNET,
    VIDEO,
    XL,
    Drawing,
    control,
    drawings,
    of,
)
from drawing_parts import (
    PARTS,
    TEXT,
    chat_tokenizer,
    clip_images,
    clip_vision,
    language_model,
    motion_adapter,
    qwen_vl,
    seeded,
)

REDRAW = "video to video"
_WAN_VAE = PARTS["AutoencoderKLWan"]


def _guider() -> Any:
    return diffusers.ClassifierFreeGuidance()


def _sparse_control() -> Any:
    return seeded(
        "SparseControlNetModel",
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=TEXT,
        attention_head_dim=4,
        motion_num_attention_heads=2,
        conditioning_embedding_out_channels=(4, 8),
    )()


def _qwen_language() -> Any:
    return qwen_vl().model.language_model


def _qwen2_vl() -> Any:
    return PARTS["Qwen2VLForConditionalGeneration"]()


_DDIM = {"scheduler": diffusers.DDIMScheduler}
_EASY = {
    "text_encoder": lambda: language_model("Qwen2Model", "Qwen2Config"),
    "tokenizer": chat_tokenizer,
}
_EASY_WIDE = _EASY | {"transformer": of("EasyAnimateTransformer3DModel", in_channels=8)}
_EASY_MASKED = _EASY | {"transformer": of("EasyAnimateTransformer3DModel", in_channels=9)}
_HUNYUAN_15 = {
    "text_encoder": _qwen_language,
    "tokenizer": functools.partial(chat_tokenizer, 2048),
    "tokenizer_2": PARTS["T5Tokenizer"],
    "guider": _guider,
    "transformer": of("HunyuanVideo15Transformer3DModel", text_embed_2_dim=12),
}
_KANDINSKY = {"transformer": of("Kandinsky5Transformer3DModel", in_text_dim2=12, visual_cond=True)}

MOVING: tuple[Drawing, ...] = (
    *drawings(FROM_NOTHING, "ScoreSdeVePipeline", prompts=None),
    *drawings(FROM_NOTHING, "KarrasVePipeline", prompts=None, in_memory=True),
    *drawings(
        VIDEO,
        "AllegroPipeline",
        {
            "vae": seeded(  # which decodes whole tiles alone, of at least 24 frames of 121 by 81
                "AutoencoderKLAllegro",
                block_out_channels=(8, 8, 8, 8),
                layers_per_block=1,
                norm_num_groups=4,
                sample_size=128,
            )
        },
        num_frames=24,
        height=128,
        width=128,
    ),
    *drawings(
        ANIMATE,
        "PIAPipeline",
        {"motion_adapter": functools.partial(motion_adapter, conv_in_channels=9)} | _DDIM,
        num_frames=2,
        **PICTURES,
    ),
    *drawings("controlled", "AnimateDiffControlNetPipeline", {"controlnet": control}, num_frames=2, **PICTURES),
    *drawings(
        "controlled",
        "AnimateDiffSparseControlNetPipeline",
        {"controlnet": _sparse_control} | _DDIM,
        num_frames=2,
        **PICTURES,
    ),
    *drawings(
        "controlled",
        "AnimateDiffVideoToVideoControlNetPipeline",
        {"controlnet": control} | _DDIM,
        **PICTURES,
    ),
    *drawings(
        "controlled",
        "CogVideoXFunControlPipeline",
        {"transformer": COGVIDEO(in_channels=8)},
        **PICTURES,
    ),
    *drawings(
        ANIMATE,
        "ChronoEditPipeline",
        {
            "transformer": of(
                "ChronoEditTransformer3DModel", in_channels=12, image_dim=12, added_kv_proj_dim=24
            ),
            "image_encoder": functools.partial(clip_vision, "CLIPVisionModel"),
        },
        **FRAMES,
        **PICTURES,
    ),
    *drawings(VIDEO, "EasyAnimatePipeline", _EASY, **FRAMES),
    *drawings(VIDEO, "HunyuanVideo15Pipeline", _HUNYUAN_15, **FRAMES),
    *drawings(ANIMATE, "HunyuanVideo15ImageToVideoPipeline", _HUNYUAN_15, **FRAMES, **PICTURES),
    *drawings(
        ANIMATE,
        "HunyuanSkyreelsImageToVideoPipeline",
        HUNYUAN_VIDEO
        | {
            "transformer": of(
                "HunyuanVideoTransformer3DModel", pooled_projection_dim=12, in_channels=8, out_channels=4
            )
        },
        **FRAMES,
        **PICTURES,
    ),
    *drawings(ANIMATE, "I2VGenXLPipeline", num_frames=2, **PICTURES),
    *drawings(ANIMATE, "Kandinsky5I2VPipeline", _KANDINSKY, **FRAMES, **PICTURES),
    *drawings(FROM_IMAGE, "Kandinsky5I2IPipeline", _KANDINSKY, **PICTURES),
)
