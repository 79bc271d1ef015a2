"""What a case of a tiny pipeline is, and the parts that pipelines of one family share."""

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
    clip_text,
    clip_vision,
    denoiser,
    flux_vae,
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
        rows: argument of the call -> shape, of tensors from 0 to 1 that lie in files, a row for each image.
        recorded: arguments of the denoiser are recorded by a call with all of the above, as with ``rows``.
        denoiser: the one to bank; by default all.
        side: of what is drawn, in pixels.
        prompts: where a pipeline does not take any text.
    """

    cls: str
    kind: str
    parts: Mapping[str, Make] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    in_memory: bool = False
    rows: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    recorded: bool = False
    denoiser: str | None = None
    side: int = 32
    prompts: tuple[str, ...] = ("a thin zero", "a bold seven slanted left")

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


def of(cls: str, variant: str = "", **changes: Any) -> Make:
    return functools.partial(denoiser, cls, variant, **changes)


def drawings(
    kind: str, names: str, parts: Mapping[str, Make] | None = None, **settings: Any
) -> list[Drawing]:
    own = {
        name: settings.pop(name)
        for name in ("in_memory", "rows", "recorded", "denoiser", "side", "texts")
        if name in settings
    }
    if "texts" in own:
        own["prompts"] = own.pop("texts")
    return [Drawing(name, kind, parts or {}, settings, **own) for name in names.split()]


def learned_range() -> Any:
    return diffusers.DDPMScheduler(variance_type="learned_range")


def control() -> Any:
    unet = denoiser("UNet2DConditionModel")
    return diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()


def xl_control() -> Any:
    unet = XL["unet"]()
    return diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()


def adapter() -> Any:
    return diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2).eval()


def qwen3() -> Any:
    return qwen3_vl("Qwen3VLModel")


def marigold(cls: str) -> list[Drawing]:
    parts: dict[str, Make] = {
        "unet": of("UNet2DConditionModel", in_channels=8),
        "default_denoising_steps": lambda: 2,
        "default_processing_resolution": lambda: 0,
    }
    return drawings("depth", cls, parts, prompts=None, **PICTURES)


def mel_vae() -> Any:
    return tiny_vae(in_channels=1, out_channels=1)


def qwen_vae() -> Any:
    return qwen_image().vae


AMUSED = {"vqvae": lambda: amused().vqvae, "scheduler": lambda: amused().scheduler}
COGVIDEO = functools.partial(
    functools.partial,
    denoiser,
    "CogVideoXTransformer3DModel",
    "",
    max_text_seq_length=226,
    use_rotary_positional_embeddings=True,
    attention_head_dim=16,
)
HUNYUAN_DIT = {
    "transformer": lambda: hunyuan().transformer,
    "vae": functools.partial(tiny_vae, num_stages=4),
    "text_encoder_2": functools.partial(tiny_t5, 24),
    "tokenizer_2": PARTS["T5Tokenizer"],
}
CASCADE_BOTH = {
    "prior_prior": functools.partial(denoiser, "StableCascadeUNet", "prior", in_channels=16, out_channels=16),
    "decoder": functools.partial(denoiser, "StableCascadeUNet", "decoder", effnet_in_channels=16),
}

FROM_TEXT, FROM_IMAGE, EDIT, INPAINT, LARGER = (
    "text to image",
    "image to image",
    "edit",
    "inpaint",
    "super-resolution",
)
VIDEO, ANIMATE, FROM_NOTHING, FROM_CLASSES = "text to video", "image to video", "unconditional", "class"
SOUND = "text to audio"
PICTURES, MASKED = {"images": "pictures"}, {"images": "masked"}
FRAMES = {"num_frames": 5}

UNET = "UNet2DConditionModel"
XL_UNET = functools.partial(of, UNET, "xl", cross_attention_dim=24, projection_class_embeddings_input_dim=36)
XL = {"unet": XL_UNET()}
FLUX = {"vae": flux_vae, "transformer": of("FluxTransformer2DModel", pooled_projection_dim=12)}
SD3 = {
    "transformer": of("SD3Transformer2DModel", pooled_projection_dim=24, joint_attention_dim=24),
    "text_encoder_3": functools.partial(tiny_t5, 24),
    "vae": shifted_vae,
}
IF = {"unet": of(UNET, in_channels=3, out_channels=6, sample_size=16), "scheduler": learned_range}
IF_LARGER = {
    "unet": of(UNET, in_channels=6, out_channels=6, sample_size=16, class_embed_type="timestep"),
    "scheduler": learned_range,
    "image_noising_scheduler": learned_range,
}
MOVQ = {
    "movq": functools.partial(vq_model, norm_type="spatial", norm_num_groups=32, block_out_channels=(32, 32))
}
DECODED = MOVQ | {
    "unet": of(
        UNET,
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim=12,
        encoder_hid_dim_type="image_proj",
        addition_embed_type_num_heads=2,
    ),
}
PRIOR = of("PriorTransformer", embedding_dim=12, num_embeddings=77)
QWEN = {"vae": qwen_vae, "text_encoder": tiny_t5, "tokenizer": chat_tokenizer}
HUNYUAN_VIDEO = {
    "transformer": of("HunyuanVideoTransformer3DModel", pooled_projection_dim=12),
    "tokenizer": chat_tokenizer,
}
CASCADE = {
    "prior": of("StableCascadeUNet", "prior", in_channels=16, out_channels=16),
}
ZIMAGE = {"tokenizer": chat_tokenizer, "vae": shifted_vae}

SMALL = {"max_area": 1024, "_auto_resize": False}
UNCLIP = {
    "unet": of(UNET, class_embed_type="projection", projection_class_embeddings_input_dim=24),
    "image_noising_scheduler": diffusers.DDPMScheduler,
}
UNCLIP_PIXELS = {
    "prior": PRIOR,
    "decoder": of(
        UNET,
        in_channels=3,
        out_channels=6,
        class_embed_type="identity",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
    ),
    "super_res_first": of("UNet2DModel", in_channels=6, sample_size=16),
    "super_res_last": of("UNet2DModel", in_channels=6, sample_size=16),
    "decoder_scheduler": functools.partial(diffusers.UnCLIPScheduler, variance_type="learned_range"),
    "prior_scheduler": functools.partial(
        diffusers.UnCLIPScheduler, variance_type="fixed_small_log", prediction_type="sample"
    ),
    "super_res_scheduler": functools.partial(diffusers.UnCLIPScheduler, variance_type="fixed_small_log"),
}
LONG_CLIP = functools.partial(clip_text, "CLIPTextModelWithProjection", 128)
HIDREAM = {
    "text_encoder": LONG_CLIP,
    "text_encoder_2": LONG_CLIP,
    "tokenizer": functools.partial(clip_tokenizer, 128),
    "tokenizer_2": functools.partial(clip_tokenizer, 128),
    "vae": shifted_vae,
    "transformer": of("HiDreamImageTransformer2DModel", text_emb_dim=24, max_resolution=(16, 16)),
}
IDEOGRAM = of("Ideogram4Transformer2DModel", llm_features_dim=13 * 12)

UNIDIFFUSER = {
    "unet": of("UniDiffuserModel", clip_img_dim=12, num_text_tokens=77, sample_size=16),
    "image_encoder": clip_vision,
}
LTX2 = {name: functools.partial(lambda name: ltx2_parts()[name], name) for name in ltx2_parts()}
