"""Tiny pipelines of the kinds that draw, and what each is asked to draw."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
from drawing_parts import (
    PARTS,
    chat_tokenizer,
    clip_images,
    clip_text,
    clip_vision,
    denoiser,
    flux_vae,
    language_model,
    qwen3_vl,
    shifted_vae,
    vq_model,
)
from support.sounding import ltx2_parts
from support.tiny_pipelines import hunyuan, tiny_t5, tiny_vae
from support.unseen_pipelines import amused, qwen_image

from qsd.zoo.tokenizers import clip_tokenizer

Make = Callable[[], Any]
_LEFT_OUT = {"safety_checker": None, "watermarker": None, "requires_safety_checker": False}
"""Arguments of constructors that are always given so."""
_NOT_PARTS = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A pipeline and a call of it.

    Attributes:
        cls: name in diffusers.
        kind: what it makes of what.
        parts: argument of the constructor -> what makes it, where :data:`PARTS` and the class that the
            constructor asks for do not say.
        settings: of the evaluation, in place of the smallest that all share.
        in_memory: taken as it is built, not opened from the folder that diffusers saves.
    """

    cls: str
    kind: str
    parts: Mapping[str, Make] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    in_memory: bool = False

    def build(self) -> Any:
        """The pipeline, with random weights."""
        cls = getattr(diffusers, self.cls)
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls.__init__).parameters.items():
            if name in self.parts:
                given[name] = self.parts[name]()
            elif name in _LEFT_OUT:
                given[name] = _LEFT_OUT[name]
            elif name == "feature_extractor" and "image_encoder" not in given:
                given[name] = None
            elif name != "self" and parameter.default is parameter.empty:
                given[name] = _part(parameter.annotation)
        return cls(**given)


def _part(annotation: Any) -> Any:
    """What an argument of a constructor asks for, the first class of several."""
    names = re.findall(r"\w+", getattr(annotation, "__name__", "") or str(annotation))
    names += re.findall(r"\w+", str(annotation))
    for name in names:
        if name in PARTS:
            return PARTS[name]()
    for name in names:
        if name.endswith(("Scheduler", "SchedulerMixin")):
            return getattr(diffusers, name)()
    for name in names:
        if isinstance(getattr(diffusers, name, None), type):
            return denoiser(name)
    raise LookupError(f"nothing makes {annotation}")


def _of(cls: str, variant: str = "", **changes: Any) -> Make:
    return functools.partial(denoiser, cls, variant, **changes)


def _drawings(
    kind: str, names: str, parts: Mapping[str, Make] | None = None, **settings: Any
) -> list[Drawing]:
    in_memory = settings.pop("in_memory", False)
    return [Drawing(name, kind, parts or {}, settings, in_memory) for name in names.split()]


def _learned_range() -> Any:
    return diffusers.DDPMScheduler(variance_type="learned_range")


def _control() -> Any:
    unet = denoiser("UNet2DConditionModel")
    return diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()


def _xl_control() -> Any:
    unet = _XL["unet"]()
    return diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()


def _adapter() -> Any:
    return diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2).eval()


def _qwen3() -> Any:
    return qwen3_vl("Qwen3VLModel")


def _marigold(cls: str) -> list[Drawing]:
    parts: dict[str, Make] = {
        "unet": _of("UNet2DConditionModel", in_channels=8),
        "default_denoising_steps": lambda: 2,
        "default_processing_resolution": lambda: 0,
    }
    return _drawings("depth", cls, parts, prompts=None, **_PICTURES)


def _mel_vae() -> Any:
    return tiny_vae(in_channels=1, out_channels=1)


def _qwen_vae() -> Any:
    return qwen_image().vae


_AMUSED = {"vqvae": lambda: amused().vqvae, "scheduler": lambda: amused().scheduler}
_COGVIDEO = functools.partial(
    functools.partial,
    denoiser,
    "CogVideoXTransformer3DModel",
    "",
    max_text_seq_length=226,
    use_rotary_positional_embeddings=True,
    attention_head_dim=16,
)
_HUNYUAN_DIT = {
    "transformer": lambda: hunyuan().transformer,
    "vae": functools.partial(tiny_vae, num_stages=4),
    "text_encoder_2": functools.partial(tiny_t5, 24),
    "tokenizer_2": PARTS["T5Tokenizer"],
}
_CASCADE_BOTH = {
    "prior_prior": functools.partial(denoiser, "StableCascadeUNet", "prior", in_channels=16, out_channels=16),
    "decoder": functools.partial(denoiser, "StableCascadeUNet", "decoder", effnet_in_channels=16),
}

_TEXT, _IMAGE, _EDIT, _INPAINT, _LARGER = (
    "text to image",
    "image to image",
    "edit",
    "inpaint",
    "super-resolution",
)
_VIDEO, _ANIMATE, _NOTHING, _CLASSES = "text to video", "image to video", "unconditional", "class"
_SOUND = "text to audio"
_PICTURES, _MASKED, _NO_PROMPT = {"images": "pictures"}, {"images": "masked"}, {"prompts": None}
_FRAMES = {"num_frames": 5}

_UNET = "UNet2DConditionModel"
_XL_UNET = functools.partial(
    _of, _UNET, "xl", cross_attention_dim=24, projection_class_embeddings_input_dim=36
)
_XL_REFINER = functools.partial(_XL_UNET, projection_class_embeddings_input_dim=36)
_XL = {"unet": _XL_UNET()}
_FLUX = {"vae": flux_vae, "transformer": _of("FluxTransformer2DModel", pooled_projection_dim=12)}
_SD3 = {
    "transformer": _of("SD3Transformer2DModel", pooled_projection_dim=24, joint_attention_dim=24),
    "text_encoder_3": functools.partial(tiny_t5, 24),
    "vae": shifted_vae,
}
_IF = {"unet": _of(_UNET, in_channels=3, out_channels=6, sample_size=16), "scheduler": _learned_range}
_IF_LARGER = {
    "unet": _of(_UNET, in_channels=6, out_channels=6, sample_size=16, class_embed_type="timestep"),
    "scheduler": _learned_range,
    "image_noising_scheduler": _learned_range,
}
_MOTION = {"unet": _of(_UNET, "")}
_MOVQ = {
    "movq": functools.partial(vq_model, norm_type="spatial", norm_num_groups=32, block_out_channels=(32, 32))
}
_DECODED = _MOVQ | {
    "unet": _of(
        _UNET,
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim=12,
        encoder_hid_dim_type="image_proj",
        addition_embed_type_num_heads=2,
    ),
}
_PRIOR = _of("PriorTransformer", embedding_dim=12, num_embeddings=77)
_QWEN = {"vae": _qwen_vae, "text_encoder": tiny_t5, "tokenizer": chat_tokenizer}
_HUNYUAN_VIDEO = {
    "transformer": _of("HunyuanVideoTransformer3DModel", pooled_projection_dim=12),
    "tokenizer": chat_tokenizer,
}
_CASCADE = {
    "prior": _of("StableCascadeUNet", "prior", in_channels=16, out_channels=16),
}
_ZIMAGE = {"tokenizer": chat_tokenizer, "vae": shifted_vae}

_SMALL = {"max_area": 1024, "_auto_resize": False}
_UNCLIP = {
    "unet": _of(_UNET, class_embed_type="projection", projection_class_embeddings_input_dim=24),
    "image_noising_scheduler": diffusers.DDPMScheduler,
}
_UNCLIP_PIXELS = {
    "prior": _PRIOR,
    "decoder": _of(
        _UNET,
        in_channels=3,
        out_channels=6,
        class_embed_type="identity",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
    ),
    "super_res_first": _of("UNet2DModel", in_channels=6, sample_size=16),
    "super_res_last": _of("UNet2DModel", in_channels=6, sample_size=16),
    "decoder_scheduler": functools.partial(diffusers.UnCLIPScheduler, variance_type="learned_range"),
    "prior_scheduler": functools.partial(
        diffusers.UnCLIPScheduler, variance_type="fixed_small_log", prediction_type="sample"
    ),
    "super_res_scheduler": functools.partial(diffusers.UnCLIPScheduler, variance_type="fixed_small_log"),
}
_LONG_CLIP = functools.partial(clip_text, "CLIPTextModelWithProjection", 128)
_HIDREAM = {
    "text_encoder": _LONG_CLIP,
    "text_encoder_2": _LONG_CLIP,
    "tokenizer": functools.partial(clip_tokenizer, 128),
    "tokenizer_2": functools.partial(clip_tokenizer, 128),
    "vae": shifted_vae,
    "transformer": _of("HiDreamImageTransformer2DModel", text_emb_dim=24, max_resolution=(16, 16)),
}
_IDEOGRAM = _of("Ideogram4Transformer2DModel", llm_features_dim=13 * 12)

_UNIDIFFUSER = {
    "unet": _of("UniDiffuserModel", clip_img_dim=12, num_text_tokens=77, sample_size=16),
    "image_encoder": clip_vision,
}
_LTX2 = {name: functools.partial(lambda name: ltx2_parts()[name], name) for name in ltx2_parts()}

DRAWINGS: tuple[Drawing, ...] = (
    *_drawings(_NOTHING, "DDPMPipeline DDIMPipeline ConsistencyModelPipeline", prompts=None),
    *_drawings(_NOTHING, "PNDMPipeline", prompts=None, steps=4),
    *_drawings(
        _NOTHING,
        "LDMPipeline",
        {"unet": _of("UNet2DModel", in_channels=4, out_channels=4)},
        prompts=None,
    ),
    *_drawings(
        "audio",
        "DanceDiffusionPipeline",
        {"scheduler": diffusers.IPNDMScheduler, "unet": _of("UNet1DModel", sample_rate=64)},
        prompts=None,
        call={"audio_length_in_s": 1.0},
    ),
    *_drawings(_CLASSES, "DiTPipeline", {"transformer": _of("DiTTransformer2DModel", out_channels=8)}),
    *_drawings(_TEXT, "StableDiffusionPipeline StableDiffusionPAGPipeline StableDiffusionSAGPipeline"),
    *_drawings(_TEXT, "StableDiffusionPanoramaPipeline SemanticStableDiffusionPipeline"),
    *_drawings(_TEXT, "LatentConsistencyModelPipeline", {"unet": _of(_UNET, time_cond_proj_dim=8)}),
    *_drawings(_TEXT, "StableDiffusionXLPipeline StableDiffusionXLPAGPipeline", _XL),
    *_drawings(_TEXT, "FluxPipeline", _FLUX),
    *_drawings(_TEXT, "StableDiffusion3Pipeline StableDiffusion3PAGPipeline", _SD3),
    *_drawings(
        _TEXT,
        "PixArtAlphaPipeline PixArtSigmaPipeline PixArtSigmaPAGPipeline",
        {"transformer": _of("PixArtTransformer2DModel", out_channels=8, num_layers=2)},
    ),
    *_drawings(_TEXT, "HunyuanDiTPipeline HunyuanDiTPAGPipeline", _HUNYUAN_DIT),
    *_drawings(_TEXT, "AuraFlowPipeline"),
    *_drawings(
        _TEXT, "PRXPipeline", {"text_encoder": tiny_t5, "vae": shifted_vae, "tokenizer": chat_tokenizer}
    ),
    *_drawings(
        _TEXT,
        "Lumina2Pipeline",
        {"transformer": _of("Lumina2Transformer2DModel", axes_lens=(512, 32, 32)), "vae": shifted_vae},
    ),
    *_drawings(_TEXT, "LuminaPipeline"),
    *_drawings(_TEXT, "ChromaPipeline BriaPipeline", {"vae": flux_vae}),
    *_drawings(_TEXT, "CogView3PlusPipeline CogView4Pipeline"),
    *_drawings(_TEXT, "SanaPipeline SanaPAGPipeline", {}),
    *_drawings(
        _TEXT,
        "SanaSprintPipeline",
        {
            "transformer": _of("SanaTransformer2DModel", guidance_embeds=True),
            "scheduler": diffusers.SCMScheduler,
        },
    ),
    *_drawings(_TEXT, "ZImagePipeline", _ZIMAGE),
    *_drawings(_TEXT, "QwenImagePipeline", _QWEN),
    *_drawings(_TEXT, "OvisImagePipeline", {"vae": flux_vae}),
    *_drawings(
        _TEXT,
        "LongCatImagePipeline",
        {"transformer": _of("LongCatImageTransformer2DModel", in_channels=64)}
        | {"vae": functools.partial(tiny_vae, latent_channels=16, scaling_factor=0.36, shift_factor=0.11)},
    ),
    *_drawings(_TEXT, "HiDreamImagePipeline", _HIDREAM),
    *_drawings(_TEXT, "AmusedPipeline", {"transformer": _of("UVit2DModel", cond_embed_dim=12), **_AMUSED}),
    *_drawings(_TEXT, "IFPipeline", _IF),
    *_drawings(_TEXT, "Kandinsky3Pipeline", _MOVQ | {"unet": _of("Kandinsky3UNet", encoder_hid_dim=12)}),
    *_drawings(_TEXT, "KandinskyV22CombinedPipeline", _DECODED | {"prior_prior": _PRIOR}),
    *_drawings(
        _TEXT, "Kandinsky5T2IPipeline", {"transformer": _of("Kandinsky5Transformer3DModel", in_text_dim2=12)}
    ),
    *_drawings(_TEXT, "UnCLIPPipeline", _UNCLIP_PIXELS, in_memory=True),
    *_drawings(_TEXT, "StableUnCLIPPipeline", _UNCLIP | {"prior": _PRIOR}),
    *_drawings(_TEXT, "StableCascadeCombinedPipeline", _CASCADE_BOTH, in_memory=True),
    *_drawings(_TEXT, "UniDiffuserPipeline", _UNIDIFFUSER, in_memory=True),
    *_drawings(
        _TEXT,
        "Ideogram4Pipeline",
        {
            "transformer": _IDEOGRAM,
            "unconditional_transformer": _IDEOGRAM,
            "text_encoder": _qwen3,
            "tokenizer": chat_tokenizer,
        },
        call={"guidance_schedule": [1.0, 2.0]},
    ),
    *_drawings(
        _TEXT,
        "Krea2Pipeline",
        {
            "transformer": _of("Krea2Transformer2DModel", text_hidden_dim=12, num_text_layers=12),
            "tokenizer": chat_tokenizer,
        },
    ),
    *_drawings(
        _TEXT,
        "Flux2KleinPipeline",
        {
            "transformer": _of("Flux2Transformer2DModel", joint_attention_dim=36, guidance_embeds=False),
            "text_encoder": lambda: language_model("Qwen3ForCausalLM", "Qwen3Config", num_hidden_layers=28),
        },
    ),
    *_drawings(
        _TEXT,
        "BriaFiboPipeline",
        {
            "transformer": _of("BriaFiboTransformer2DModel", text_encoder_dim=12, joint_attention_dim=24),
            "tokenizer": chat_tokenizer,
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
        },
    ),
    *_drawings("prior", "KandinskyV22PriorPipeline KandinskyPriorPipeline", {"prior": _PRIOR}),
    *_drawings("prior", "StableCascadePriorPipeline", _CASCADE),
    *_drawings(_IMAGE, "StableDiffusionImg2ImgPipeline StableDiffusionPAGImg2ImgPipeline", **_PICTURES),
    *_drawings(
        _IMAGE,
        "StableDiffusionXLImg2ImgPipeline StableDiffusionXLPAGImg2ImgPipeline",
        _XL,
        steps=4,
        **_PICTURES,
    ),
    *_drawings(_IMAGE, "FluxImg2ImgPipeline", _FLUX, **_PICTURES),
    *_drawings(
        _IMAGE, "StableDiffusion3Img2ImgPipeline StableDiffusion3PAGImg2ImgPipeline", _SD3, **_PICTURES
    ),
    *_drawings(
        _IMAGE,
        "LatentConsistencyModelImg2ImgPipeline",
        {"unet": _of(_UNET, time_cond_proj_dim=8)},
        **_PICTURES,
    ),
    *_drawings(_IMAGE, "ChromaImg2ImgPipeline", {"vae": flux_vae}, **_PICTURES),
    *_drawings(_IMAGE, "ZImageImg2ImgPipeline", _ZIMAGE, **_PICTURES),
    *_drawings(_IMAGE, "QwenImageImg2ImgPipeline", _QWEN, **_PICTURES),
    *_drawings(
        _IMAGE,
        "AmusedImg2ImgPipeline",
        {"transformer": _of("UVit2DModel", cond_embed_dim=12), **_AMUSED},
        **_PICTURES,
    ),
    *_drawings(_IMAGE, "IFImg2ImgPipeline", _IF, **_PICTURES),
    *_drawings(
        _IMAGE,
        "Kandinsky3Img2ImgPipeline",
        _MOVQ | {"unet": _of("Kandinsky3UNet", encoder_hid_dim=12)},
        steps=4,
        **_PICTURES,
    ),
    *_drawings(
        _IMAGE,
        "KandinskyV22Img2ImgCombinedPipeline",
        _DECODED | {"prior_prior": _PRIOR},
        steps=4,
        **_PICTURES,
    ),
    *_drawings(_IMAGE, "StableDiffusionImageVariationPipeline", prompts=None, **_PICTURES),
    *_drawings(
        _IMAGE, "StableUnCLIPImg2ImgPipeline", _UNCLIP | {"feature_extractor": clip_images}, **_PICTURES
    ),
    *_drawings(
        _IMAGE,
        "SanaSprintImg2ImgPipeline",
        {
            "transformer": _of("SanaTransformer2DModel", guidance_embeds=True),
            "scheduler": diffusers.SCMScheduler,
        },
        **_PICTURES,
    ),
    *_drawings(
        _EDIT, "StableDiffusionInstructPix2PixPipeline", {"unet": _of(_UNET, in_channels=8)}, **_PICTURES
    ),
    *_drawings(
        _EDIT, "StableDiffusionXLInstructPix2PixPipeline", {"unet": _XL_UNET(in_channels=8)}, **_PICTURES
    ),
    *_drawings(_EDIT, "FluxKontextPipeline", _FLUX, call=_SMALL, **_PICTURES),
    *_drawings(_INPAINT, "StableDiffusionInpaintPipeline StableDiffusionPAGInpaintPipeline", **_MASKED),
    *_drawings(
        _INPAINT, "StableDiffusionXLInpaintPipeline StableDiffusionXLPAGInpaintPipeline", _XL, **_MASKED
    ),
    *_drawings(_INPAINT, "FluxInpaintPipeline", _FLUX, **_MASKED),
    *_drawings(_INPAINT, "FluxKontextInpaintPipeline", _FLUX, call=_SMALL, **_MASKED),
    *_drawings(
        _INPAINT,
        "FluxFillPipeline",
        _FLUX
        | {
            "transformer": _of(
                "FluxTransformer2DModel",
                "distilled",
                pooled_projection_dim=12,
                in_channels=24,
                out_channels=4,
            )
        },
        **_MASKED,
    ),
    *_drawings(
        _INPAINT,
        "StableDiffusion3InpaintPipeline",
        _SD3
        | {
            "vae": functools.partial(tiny_vae, latent_channels=16, scaling_factor=1.5, shift_factor=0.06),
            "transformer": _of(
                "SD3Transformer2DModel",
                in_channels=16,
                out_channels=16,
                pooled_projection_dim=24,
                joint_attention_dim=24,
            ),
        },
        **_MASKED,
    ),
    *_drawings(_INPAINT, "ZImageInpaintPipeline", _ZIMAGE, **_MASKED),
    *_drawings(_INPAINT, "QwenImageInpaintPipeline", _QWEN, **_MASKED),
    *_drawings(
        _INPAINT,
        "AmusedInpaintPipeline",
        {"transformer": _of("UVit2DModel", cond_embed_dim=12), **_AMUSED},
        **_MASKED,
    ),
    *_drawings(_INPAINT, "IFInpaintingPipeline", _IF, **_MASKED),
    *_drawings(
        _INPAINT,
        "KandinskyV22InpaintCombinedPipeline",
        _MOVQ
        | {
            "unet": _of(
                _UNET,
                in_channels=9,
                out_channels=8,
                addition_embed_type="image",
                encoder_hid_dim=12,
                encoder_hid_dim_type="image_proj",
                addition_embed_type_num_heads=2,
            ),
            "prior_prior": _PRIOR,
        },
        **_MASKED,
    ),
    *_drawings(_INPAINT, "RePaintPipeline", prompts=None, **_MASKED),
    *_drawings(
        _LARGER,
        "StableDiffusionUpscalePipeline",
        {"unet": _of(_UNET, in_channels=7, num_class_embeds=1000)},
        **_PICTURES,
    ),
    *_drawings(
        _LARGER,
        "StableDiffusionLatentUpscalePipeline",
        {"unet": _of(_UNET, in_channels=8, out_channels=5, time_cond_proj_dim=140)},
        **_PICTURES,
    ),
    *_drawings(
        _LARGER,
        "LDMSuperResolutionPipeline",
        {
            "unet": _of("UNet2DModel", in_channels=6, out_channels=3),
            "vqvae": functools.partial(vq_model, latent_channels=3),
        },
        prompts=None,
        **_PICTURES,
    ),
    *_drawings(_LARGER, "IFSuperResolutionPipeline", _IF_LARGER, **_PICTURES),
    *_drawings(_LARGER, "IFImg2ImgSuperResolutionPipeline", _IF_LARGER, in_memory=True, **_PICTURES),
    *_drawings(_LARGER, "IFInpaintingSuperResolutionPipeline", _IF_LARGER, **_MASKED),
    *_marigold("MarigoldDepthPipeline MarigoldNormalsPipeline"),
    *_drawings(
        "controlled",
        "StableDiffusionControlNetPipeline StableDiffusionControlNetPAGPipeline",
        {"controlnet": _control},
        **_PICTURES,
    ),
    *_drawings(
        "controlled", "StableDiffusionControlNetImg2ImgPipeline", {"controlnet": _control}, **_PICTURES
    ),
    *_drawings("controlled", "StableDiffusionControlNetInpaintPipeline", {"controlnet": _control}, **_MASKED),
    *_drawings(
        "controlled", "StableDiffusionXLControlNetPipeline", _XL | {"controlnet": _xl_control}, **_PICTURES
    ),
    *_drawings("controlled", "StableDiffusionAdapterPipeline", {"adapter": _adapter}, **_PICTURES),
    *_drawings(_VIDEO, "WanPipeline", {"transformer": _of("WanTransformer3DModel")}, **_FRAMES),
    *_drawings(_VIDEO, "TextToVideoSDPipeline", **_FRAMES),
    *_drawings(
        _VIDEO,
        "LattePipeline",
        {"transformer": _of("LatteTransformer3DModel", video_length=5)},
        call={"video_length": 5},
    ),
    *_drawings(_VIDEO, "AnimateDiffPipeline AnimateDiffPAGPipeline", num_frames=2),
    *_drawings(_VIDEO, "AnimateDiffSDXLPipeline", _XL, num_frames=2),
    *_drawings(_VIDEO, "CogVideoXPipeline", {"transformer": _COGVIDEO()}, **_FRAMES),
    *_drawings(_VIDEO, "LTXPipeline", **_FRAMES),
    *_drawings(_VIDEO, "HunyuanVideoPipeline", _HUNYUAN_VIDEO, **_FRAMES),
    *_drawings(_VIDEO, "SkyReelsV2Pipeline SkyReelsV2DiffusionForcingPipeline AnyFlowPipeline", **_FRAMES),
    *_drawings(_VIDEO, "SanaVideoPipeline", {"vae": PARTS["AutoencoderKLWan"]}, call={"frames": 5}),
    *_drawings(
        _VIDEO,
        "Kandinsky5T2VPipeline",
        {"transformer": _of("Kandinsky5Transformer3DModel", in_text_dim2=12, visual_cond=True)},
        **_FRAMES,
    ),
    *_drawings(
        _VIDEO,
        "HeliosPipeline",
        {"scheduler": functools.partial(diffusers.HeliosScheduler, stages=1)},
        **_FRAMES,
    ),
    *_drawings("text to video and sound", "LTX2Pipeline", _LTX2, **_FRAMES),
    *_drawings(
        _ANIMATE,
        "StableVideoDiffusionPipeline",
        {"image_encoder": functools.partial(clip_vision, side=224)},
        prompts=None,
        num_frames=2,
        **_PICTURES,
    ),
    *_drawings(
        _ANIMATE,
        "WanImageToVideoPipeline",
        {
            "transformer": _of("WanTransformer3DModel", "image-to-video", in_channels=12, image_dim=12),
            "image_processor": clip_images,
            "image_encoder": functools.partial(clip_vision, "CLIPVisionModel"),
        },
        **_FRAMES,
        **_PICTURES,
    ),
    *_drawings(
        _ANIMATE,
        "WanVACEPipeline",
        {"transformer": _of("WanVACETransformer3DModel", vace_in_channels=72)},
        **_FRAMES,
    ),
    *_drawings(
        _ANIMATE,
        "CogVideoXImageToVideoPipeline",
        {"transformer": _COGVIDEO(in_channels=8)},
        **_FRAMES,
        **_PICTURES,
    ),
    *_drawings(_ANIMATE, "LTXImageToVideoPipeline", **_FRAMES, **_PICTURES),
    *_drawings(
        _ANIMATE,
        "SkyReelsV2ImageToVideoPipeline",
        {
            "transformer": _of(
                "SkyReelsV2Transformer3DModel", in_channels=12, image_dim=12, added_kv_proj_dim=24
            )
        },
        **_FRAMES,
        **_PICTURES,
    ),
    *_drawings(
        _ANIMATE,
        "HunyuanVideoFramepackPipeline",
        {
            "transformer": _of("HunyuanVideoFramepackTransformer3DModel", pooled_projection_dim=12),
            "tokenizer": chat_tokenizer,
        },
        **_FRAMES,
        **_PICTURES,
    ),
    *_drawings(
        _ANIMATE,
        "SanaImageToVideoPipeline",
        {"vae": PARTS["AutoencoderKLWan"]},
        call={"frames": 5},
        **_PICTURES,
    ),
    *_drawings(
        "video to video",
        "WanVideoToVideoPipeline VideoToVideoSDPipeline AnimateDiffVideoToVideoPipeline",
        **_PICTURES,
    ),
    *_drawings("video to video", "CogVideoXVideoToVideoPipeline", {"transformer": _COGVIDEO()}, **_PICTURES),
    *_drawings(
        _SOUND,
        "StableAudioPipeline",
        {"tokenizer": chat_tokenizer, "transformer": _of("StableAudioDiTModel", global_states_input_dim=24)},
        call={"audio_end_in_s": 0.5},
    ),
    *_drawings(
        _SOUND,
        "AudioLDMPipeline",
        {
            "unet": _of(
                _UNET,
                cross_attention_dim=(8, 16),
                class_embed_type="simple_projection",
                projection_class_embeddings_input_dim=12,
                class_embeddings_concat=True,
            ),
            "vae": _mel_vae,
        },
        call={"audio_length_in_s": 1.0},
    ),
)
