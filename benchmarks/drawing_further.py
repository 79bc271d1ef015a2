"""Further pipelines: worlds, solids, sound and variants that need parts or schedulers of their own."""

import functools
from typing import Any

import diffusers
import torch
from drawing_case import (
    ANIMATE,
    EDIT,
    FRAMES,
    FROM_TEXT,
    LTX2,
    PICTURES,
    SOUND,
    Drawing,
    Make,
    drawings,
    of,
)
from drawing_images import wuerstchen_prior
from drawing_moving import EASY, MOTIF, REDRAW, cosmos, loud
from drawing_parts import PARTS, TEXT, clip_vision, denoiser


def _schedule() -> Any:
    """Sigmas that end above zero, by which these pipelines divide."""
    known = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    return diffusers.FlowMatchEulerDiscreteScheduler.from_config(known)


_PREDICTING = {"scheduler": _schedule}


def _audio_denoiser() -> Any:
    """Diffusers leaves its last layer, and those that modulate, zero."""
    transformer = denoiser("LongCatAudioDiTTransformer")
    for name, parameter in transformer.named_parameters():
        if not parameter.any() and name.endswith("weight"):
            parameter.data.normal_(std=0.1)
    return transformer


def _renderer() -> Any:
    from diffusers.pipelines.shap_e import ShapERenderer

    torch.manual_seed(0)
    return ShapERenderer(param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=8, d_hidden=8).eval()


_SOLID: dict[str, Make] = {
    "prior": of(
        "PriorTransformer",
        num_embeddings=32,
        additional_embeddings=0,
        embedding_dim=8,
        embedding_proj_dim=TEXT,
        time_embed_dim=16,
        clip_embed_dim=16,
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    ),
    "shap_e_renderer": _renderer,
}
_KANDINSKY = of("Kandinsky5Transformer3DModel", in_text_dim2=12, visual_cond=True)

FURTHER: tuple[Drawing, ...] = (
    *drawings(
        ANIMATE,
        "CosmosVideoToWorldPipeline",
        cosmos(in_channels=5),
        in_memory=True,
        num_frames=9,  # one latent frame, which fewer would give, is the picture's
        **PICTURES,
    ),
    *drawings(FROM_TEXT, "Cosmos2TextToImagePipeline", cosmos() | _PREDICTING, in_memory=True),
    *drawings(
        ANIMATE,
        "Cosmos2VideoToWorldPipeline",
        cosmos(in_channels=5) | _PREDICTING,
        in_memory=True,
        **FRAMES,
        **PICTURES,
    ),
    *drawings(
        SOUND,
        "LongCatAudioDiTPipeline",
        {
            "transformer": _audio_denoiser,
            "vae": loud(
                "LongCatAudioDiTVae",
                channels=8,
                c_mults=[1],
                strides=[2],
                latent_dim=4,
                encoder_latent_dim=8,
                downsampling_ratio=2,
                sample_rate=64,
            ),
        },
        call={"audio_duration_s": 0.5},
    ),
    *drawings(ANIMATE, "LTX2ImageToVideoPipeline LTX2ConditionPipeline", LTX2, **FRAMES, **PICTURES),
    *drawings(ANIMATE, "Kandinsky5I2VPipeline", {"transformer": _KANDINSKY}, num_frames=13, **PICTURES),
    *drawings(EDIT, "Kandinsky5I2IPipeline", {"transformer": _KANDINSKY}, **PICTURES),
    *drawings(
        ANIMATE,
        "MotifVideoImage2VideoPipeline",
        MOTIF | {"feature_extractor": PARTS["SiglipImageProcessorPil"]},
        **FRAMES,
        **PICTURES,
    ),
    *drawings("prior", "WuerstchenPriorPipeline", {"prior": wuerstchen_prior}, in_memory=True),
    *drawings("text to solid", "ShapEPipeline", _SOLID, call={"frame_size": 32}),
    *drawings(
        "image to solid",
        "ShapEImg2ImgPipeline",
        _SOLID | {"image_encoder": functools.partial(clip_vision, "CLIPVisionModel")},
        prompts=None,
        call={"frame_size": 32},
        **PICTURES,
    ),
    *drawings(
        REDRAW,
        "EasyAnimateControlPipeline",
        EASY | {"transformer": of("EasyAnimateTransformer3DModel", in_channels=8)},
        **FRAMES,
        **PICTURES,
    ),
)
