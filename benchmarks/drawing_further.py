"""Further pipelines: worlds, solids, sound and variants that need parts or schedulers of their own."""

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
    UNET,
    Drawing,
    drawings,
    of,
)
from drawing_images import wuerstchen_prior
from drawing_moving import MOTIF, cosmos, loud
from drawing_parts import PARTS, TEXT, chat_tokenizer, denoiser, siglip_vision


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


_KANDINSKY = of("Kandinsky5Transformer3DModel", in_text_dim2=12, visual_cond=True)


def _seeing_encoder() -> Any:
    """A text encoder that sees, width 12, vision of width 8."""
    from transformers import T5Gemma2EncoderConfig
    from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

    torch.manual_seed(0)
    text = {
        "vocab_size": 512,
        "hidden_size": TEXT,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "dropout_rate": 0.0,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6}
    vision = siglip_vision().config.to_dict()
    config = T5Gemma2EncoderConfig(text_config=text | heads, vision_config=vision, mm_tokens_per_image=4)
    return T5Gemma2Encoder(config).eval()


def _projection() -> Any:
    from diffusers.pipelines.stable_diffusion import CLIPImageProjection

    torch.manual_seed(0)
    return CLIPImageProjection(hidden_size=TEXT).eval()


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
    *drawings(ANIMATE, "Kandinsky5I2VPipeline", {"transformer": _KANDINSKY}, num_frames=21, **PICTURES),
    *drawings(
        ANIMATE,
        "MotifVideoImage2VideoPipeline",
        MOTIF
        | {
            "feature_extractor": PARTS["SiglipImageProcessorPil"],
            "text_encoder": _seeing_encoder,
            "transformer": of("MotifVideoTransformer3DModel", image_embed_dim=8),
        },
        **FRAMES,
        **PICTURES,
    ),
    *drawings("prior", "WuerstchenPriorPipeline", {"prior": wuerstchen_prior}, in_memory=True, side=256),
    *drawings(
        EDIT,
        "BriaFiboEditPipeline",
        {
            "transformer": of("BriaFiboTransformer2DModel", text_encoder_dim=12, joint_attention_dim=24),
            "tokenizer": chat_tokenizer,
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
        },
        texts=('{"edit_instruction": "thin"}', '{"edit_instruction": "bold"}'),
        recorded=True,
        call={"_auto_resize": False},
        **PICTURES,
    ),
    *drawings(
        FROM_TEXT,
        "StableDiffusionGLIGENTextImagePipeline",
        {
            "unet": of(UNET, attention_type="gated-text-image"),
            "image_project": _projection,
        },
        call={
            "gligen_phrases": ["zero"],
            "gligen_boxes": [[0.1, 0.1, 0.5, 0.5]],
            "gligen_scheduled_sampling_beta": 1.0,
        },
        recorded=True,
        **PICTURES,
    ),
)
