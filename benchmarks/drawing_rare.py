"""Rarer pipelines: solids, sound by a language model, videos of a model of images, control and refinement."""

import functools
from typing import Any

import diffusers
import torch
import transformers
from drawing_case import (
    EDIT,
    FRAMES,
    LARGER,
    PICTURES,
    SOUND,
    UNET,
    VIDEO,
    XL,
    ZIMAGE,
    Drawing,
    drawings,
    mel_vae,
    of,
)
from drawing_images import talk
from drawing_moving import cosmos
from drawing_parts import PARTS, TEXT, chat_tokenizer, clip_images, qwen_vl, seeded
from support.tiny_pipelines import tiny_t5

_ZERO: dict[str, Any] = {
    "steps": 4,
    "call": {"video_length": 2, "t0": 1, "t1": 2},
    "batch_size": 1,
    "guidance": 2.0,
}
"""Frames part from each other after a step, and are noised anew for another."""

_SOLID = {
    "embedding_dim": 16,
    "num_embeddings": 32,
    "clip_embed_dim": 32,
    "additional_embeddings": 0,
    "time_embed_act_fn": "gelu",
    "norm_in_type": "layer",
    "encoder_hid_proj_type": None,
    "added_emb_type": None,
    "embedding_proj_dim": TEXT,
}


def _renderer() -> Any:
    """Asks for few points of each ray, which no argument of the pipeline's call says."""
    from diffusers.pipelines.shap_e import ShapERenderer

    torch.manual_seed(0)
    shapes = ((8, 93), (8, 8), (8, 8), (8, 8))
    made: Any = ShapERenderer(
        param_shapes=shapes, d_latent=16, d_hidden=8, n_output=12, background=(0.1,) * 3
    )
    few = {"n_coarse_samples": 8, "n_fine_samples": 8, "ray_batch_size": 1280}
    made.decode_to_image = functools.partial(made.decode_to_image, **few)
    return made


def _heun() -> Any:
    return diffusers.HeunDiscreteScheduler(
        beta_schedule="exp",
        num_train_timesteps=1024,
        prediction_type="sample",
        use_karras_sigmas=True,
        clip_sample=True,
        clip_sample_range=1.0,
    )


_SHAPE = {"prior": of("PriorTransformer", **_SOLID), "scheduler": _heun, "shap_e_renderer": _renderer}
_TURNED: dict[str, Any] = {"in_memory": True, "call": {"frame_size": 16}}


def _clap() -> Any:
    """Reads texts and hears sounds, both of width 12."""
    torch.manual_seed(9)
    shared = {"hidden_size": TEXT, "projection_dim": TEXT}
    text = PARTS["ClapTextModelWithProjection"]().config.to_dict()
    heard = {
        "num_mel_bins": 8,
        "spec_size": 32,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 6,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 2,
        "window_size": 4,
        "hidden_size": TEXT,
        "projection_dim": TEXT,
    }
    config = transformers.ClapConfig(text_config=text | shared, audio_config=heard, projection_dim=TEXT)
    return transformers.ClapModel(config).eval()


def _gpt() -> Any:
    torch.manual_seed(13)
    sizes = {"vocab_size": 8, "n_positions": 256, "n_embd": TEXT, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    config.max_new_tokens = 4
    return transformers.GPT2LMHeadModel(config).eval()


def _projection() -> Any:
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel

    torch.manual_seed(0)
    return AudioLDM2ProjectionModel(
        text_encoder_dim=TEXT, text_encoder_1_dim=8, langauge_model_dim=TEXT
    ).eval()


def _letters() -> Any:
    """A token for each letter."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *letters)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=256)


def _loud_vocoder() -> Any:
    vocoder = PARTS["SpeechT5HifiGan"]()
    for parameter in vocoder.parameters():
        parameter.data.normal_(std=0.5)
    return vocoder


def _short_texts() -> Any:
    tokenizer = PARTS["T5Tokenizer"]()
    tokenizer.model_max_length = 77
    return tokenizer


_HEARD = {
    "vocoder": _loud_vocoder,
    "text_encoder": _clap,
    "feature_extractor": transformers.ClapFeatureExtractor,
    "vae": mel_vae,
}
_SECOND = {"audio_length_in_s": 1.0}


def _siglip2() -> Any:
    torch.manual_seed(5)
    config = transformers.Siglip2VisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=16,
        patch_size=4,
    )
    return transformers.Siglip2VisionModel(config).eval()


def _siglip2_images() -> Any:
    return transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=16)


def _flow() -> Any:
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)


_COSMOS = cosmos(in_channels=5, text_embed_dim=2 * TEXT) | {
    "text_encoder": qwen_vl,
    "tokenizer": talk,
    "vae": PARTS["AutoencoderKLWan"],
    "scheduler": _flow,
}

RARE: tuple[Drawing, ...] = (
    *drawings(VIDEO, "TextToVideoZeroPipeline", in_memory=True, **_ZERO),
    *drawings(VIDEO, "TextToVideoZeroSDXLPipeline", XL, **_ZERO),
    *drawings("text to solid", "ShapEPipeline", _SHAPE, **_TURNED),
    *drawings(
        "image to solid",
        "ShapEImg2ImgPipeline",
        _SHAPE
        | {
            "prior": of("PriorTransformer", **_SOLID, embedding_proj_norm_type="layer"),
            "image_processor": clip_images,
        },
        prompts=None,
        **_TURNED,
        **PICTURES,
    ),
    *drawings(
        SOUND,
        "AudioLDM2Pipeline",
        _HEARD
        | {
            "tokenizer": _letters,
            "tokenizer_2": _short_texts,
            "text_encoder_2": functools.partial(tiny_t5, 8),
            "language_model": _gpt,
            "projection_model": _projection,
        },
        call=_SECOND,
    ),
    *drawings(
        SOUND,
        "MusicLDMPipeline",
        _HEARD
        | {
            "unet": of(
                UNET,
                cross_attention_dim=(8, 16),
                class_embed_type="simple_projection",
                projection_class_embeddings_input_dim=12,
                class_embeddings_concat=True,
            )
        },
        prompts=None,  # transformers 5 encodes them into what this pipeline does not know
        rows={"prompt_embeds": (TEXT,)},
        call=_SECOND,
    ),
    *drawings(
        LARGER,
        "HunyuanImageRefinerPipeline",
        {
            "transformer": of(
                "HunyuanImageTransformer2DModel",
                in_channels=16,
                out_channels=8,
                patch_size=(1, 1, 1),
                rope_axes_dim=(2, 2, 4),
            ),
            "vae": seeded(
                "AutoencoderKLHunyuanImageRefiner",
                latent_channels=4,
                block_out_channels=(32, 32),
                layers_per_block=1,
                spatial_compression_ratio=2,
                temporal_compression_ratio=1,
            ),
            "tokenizer": chat_tokenizer,
        },
        **PICTURES,
    ),
    *drawings(VIDEO, "Cosmos2_5_PredictBasePipeline", _COSMOS, in_memory=True, **FRAMES),
    *drawings(
        EDIT,
        "ZImageOmniPipeline",
        ZIMAGE
        | {
            "transformer": of("ZImageTransformer2DModel", siglip_feat_dim=8, axes_lens=[1024, 32, 32]),
            "siglip": _siglip2,
            "siglip_processor": _siglip2_images,
        },
        side=64,
        **PICTURES,
    ),
)
