"""Further pipelines of videos, sound and solids: variants of ``drawing_cases.py``, and rarer ones."""

import functools
from typing import Any

import diffusers
import torch
from drawing_case import (
    ANIMATE,
    COGVIDEO,
    FRAMES,
    FROM_NOTHING,
    HUNYUAN_VIDEO,
    LTX2,
    MASKED,
    PICTURES,
    SOUND,
    VIDEO,
    Drawing,
    Make,
    control,
    drawings,
    of,
)
from drawing_parts import (
    PARTS,
    TEXT,
    chat_tokenizer,
    clip_vision,
    language_model,
    motion_adapter,
    qwen_vl,
    seeded,
)
from support.tiny_pipelines import tiny_t5

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


_DDIM = {"scheduler": diffusers.DDIMScheduler}


class _Harmless:
    """Finds everything safe."""

    def to(self, *_: Any, **__: Any) -> "_Harmless":
        return self

    def check_text_safety(self, _: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def cosmos(**changes: Any) -> dict[str, Make]:
    """Parts of a pipeline that insists on a safety checker, whose package opens it from a folder."""
    return {"transformer": of("CosmosTransformer3DModel", **changes), "safety_checker": _Harmless}


def loud(cls: str, **config: Any) -> Make:
    """A decoder whose layers are neither zero at the start, which makes all sounds silence, nor small."""

    def make() -> Any:
        module = seeded(cls, **config)()
        for name, parameter in module.named_parameters():
            if not name.endswith(("alpha", "beta", "bias")):
                parameter.data.normal_(std=0.5)
        return module

    return make


def _duration_embedder() -> Any:
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

    torch.manual_seed(0)
    return StableAudio3DurationEmbedder(output_dim=TEXT, fourier_dim=8).eval()


def _conditions_of_songs() -> Any:
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    torch.manual_seed(0)
    return AceStepConditionEncoder(
        hidden_size=16,
        intermediate_size=24,
        text_hidden_dim=TEXT,
        timbre_hidden_dim=4,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=4,
    ).eval()


EASY = {
    "text_encoder": lambda: language_model("Qwen2Model", "Qwen2Config"),
    "tokenizer": chat_tokenizer,
}
_EASY_MASKED = EASY | {
    "transformer": of("EasyAnimateTransformer3DModel", in_channels=12, resize_inpaint_mask_directly=False)
}
_HUNYUAN_15 = {
    "text_encoder": _qwen_language,
    "tokenizer": functools.partial(chat_tokenizer, 2048),
    "tokenizer_2": PARTS["T5Tokenizer"],
    "guider": _guider,
    "transformer": of("HunyuanVideo15Transformer3DModel", text_embed_2_dim=12, target_size=32),
}
_AUDIO_3 = {
    "vae": loud(
        "AutoencoderSAME",
        patch_size=4,
        encoder_channels=8,
        encoder_c_mults=(1,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=4,
        dim_heads=4,
        ff_mult=1,
        sampling_rate=64,
    ),
    "text_encoder": PARTS["T5EncoderModel"],
    "tokenizer": PARTS["T5Tokenizer"],
    "duration_embedder": _duration_embedder,
}
_SOUND = {"audio": (2, 64)}
MOTIF = {"text_encoder": PARTS["T5EncoderModel"], "tokenizer": PARTS["T5Tokenizer"], "guider": _guider}
_SHORT: dict[str, Any] = {"duration": 1.0}

MOVING: tuple[Drawing, ...] = (
    *drawings(FROM_NOTHING, "ScoreSdeVePipeline", prompts=None),
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
        batch_size=1,
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
    *drawings(
        "controlled", "AnimateDiffControlNetPipeline", {"controlnet": control}, num_frames=2, **PICTURES
    ),
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
    *drawings(VIDEO, "EasyAnimatePipeline", EASY, **FRAMES),
    *drawings("inpaint", "EasyAnimateInpaintPipeline", _EASY_MASKED, **FRAMES, **MASKED),
    *drawings(VIDEO, "HunyuanVideo15Pipeline", _HUNYUAN_15, batch_size=1, **FRAMES),
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
    *drawings(ANIMATE, "I2VGenXLPipeline", recorded=True, num_frames=2, call={"clip_skip": None}, **PICTURES),
    *drawings(REDRAW, "LTX2InContextPipeline LTX2HDRPipeline", LTX2, **FRAMES, **PICTURES),
    *drawings(ANIMATE, "LTXConditionPipeline LTXI2VLongMultiPromptPipeline", **FRAMES, **PICTURES),
    *drawings(ANIMATE, "SkyReelsV2DiffusionForcingImageToVideoPipeline", **FRAMES, **PICTURES),
    *drawings(
        REDRAW,
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        recorded=True,
        call={"overlap_history": 1},
        **FRAMES,
        **PICTURES,
    ),
    *drawings(
        REDRAW,
        "LucyEditPipeline",
        {
            "transformer": of("WanTransformer3DModel", in_channels=8),
            "transformer_2": lambda: None,
        },
        **FRAMES,
        **PICTURES,
    ),
    *drawings(VIDEO, "AnyFlowFARPipeline", call={"chunk_partition": [1, 1]}, **FRAMES),
    *drawings(
        VIDEO,
        "HeliosPyramidPipeline",
        {
            "scheduler": functools.partial(diffusers.HeliosScheduler, stages=3),
            "transformer": of("HeliosTransformer3DModel"),
        },
        side=64,
        **FRAMES,
    ),
    *drawings(
        VIDEO,
        "MochiPipeline",
        {
            "transformer": of("MochiTransformer3DModel", in_channels=12, max_sequence_length=256),
            "vae": seeded(
                "AutoencoderKLMochi",
                encoder_block_out_channels=(32, 32, 32, 32),
                decoder_block_out_channels=(32, 32, 32, 32),
                layers_per_block=(1, 1, 1, 1, 1),
            ),
            "text_encoder": functools.partial(tiny_t5, 16),
        },
        num_frames=7,
    ),
    *drawings(SOUND, "StableAudio3Pipeline", _AUDIO_3, call=_SHORT),
    *drawings("sound to sound", "StableAudio3AudioToAudioPipeline", _AUDIO_3, rows=_SOUND, call=_SHORT),
    *drawings(
        "inpaint",
        "StableAudio3InpaintPipeline",
        _AUDIO_3,
        rows=_SOUND,
        call=_SHORT | {"mask_start_seconds": 0.2, "mask_end_seconds": 0.6},
    ),
    *drawings(
        SOUND,
        "AceStepPipeline",
        {"condition_encoder": _conditions_of_songs},
        batch_size=1,
        call={"audio_duration": 1.0},
    ),
    *drawings(
        ANIMATE,
        "WanAnimatePipeline",
        {
            "transformer": of("WanAnimateTransformer3DModel", image_dim=TEXT),
            "image_encoder": functools.partial(clip_vision, "CLIPVisionModel"),
        },
        call={"segment_frame_length": 5},
        **PICTURES,
    ),
    *drawings(VIDEO, "CosmosTextToWorldPipeline", cosmos(), in_memory=True, **FRAMES),
    *drawings(VIDEO, "MotifVideoPipeline", MOTIF, **FRAMES),
)
