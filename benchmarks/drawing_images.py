"""Further pipelines of images: variants of the families of ``drawing_cases.py``, and rarer ones."""

import functools
import inspect
from typing import Any

import diffusers
import torch
import transformers
from drawing_case import (
    CASCADE_BOTH,
    DECODED,
    EDIT,
    FLUX,
    FROM_IMAGE,
    FROM_NOTHING,
    FROM_TEXT,
    HUNYUAN_DIT,
    INPAINT,
    MASKED,
    MOVQ,
    PICTURES,
    PRIOR,
    QWEN,
    SD3,
    UNCLIP_PIXELS,
    UNET,
    XL,
    XL_UNET,
    ZIMAGE,
    Drawing,
    control,
    drawings,
    of,
    xl_control,
)
from drawing_parts import (
    CLIP_SIDE,
    PARTS,
    chat_tokenizer,
    clip_images,
    denoiser,
    flux_vae,
    language_model,
    seeded,
    vq_model,
)
from support.tiny_pipelines import tiny_vae

CONTROLLED = "controlled"
_HINT = {"conditioning_embedding_out_channels": (4, 8)}


def _union() -> Any:
    """A control net of several kinds of pictures."""
    sizes = {"num_trans_channel": 8, "num_trans_head": 2, "num_proj_channel": 8}
    known = inspect.signature(diffusers.ControlNetUnionModel.__init__).parameters
    shared = {name: value for name, value in XL["unet"]().config.items() if name in known}
    return seeded("ControlNetUnionModel", **shared | sizes | _HINT)()


def _xs(variant: str = "", **changes: Any) -> dict[str, Any]:
    """A U-Net of two layers a block, and a control net between its layers."""
    unet = of(UNET, variant, layers_per_block=2, upcast_attention=False, **changes)
    return {"unet": unet, "controlnet": lambda: _xs_adapter(unet())}


def _xs_adapter(unet: Any) -> Any:
    return diffusers.ControlNetXSAdapter.from_unet(unet, size_ratio=1.0, **_HINT).eval()


def _full_adapter() -> Any:
    return diffusers.T2IAdapter(
        channels=[8, 16], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl"
    ).eval()


def _controlling(cls: str, transformer: dict[str, Any], **changes: Any) -> Any:
    """A control net of the config of a transformer."""
    net = getattr(diffusers, cls).from_transformer(
        transformer["transformer"](), load_weights_from_transformer=False, **changes
    )
    for parameter in net.parameters():
        parameter.data.normal_(std=0.1)
    return net.eval()


def _attention_last(**changes: Any) -> Any:
    """A U-Net of Stable Diffusion XL with its blocks in the order of the real one."""
    return XL_UNET(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **changes,
    )


_FLUX_NET = functools.partial(
    _controlling,
    *("FluxControlNetModel", FLUX),
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
)
_SD3_NET = functools.partial(_controlling, "SD3ControlNetModel", SD3, num_layers=1)


def _depth() -> Any:
    torch.manual_seed(0)
    config = transformers.DPTConfig(
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 4, 4],
        fusion_hidden_size=4,
    )
    return transformers.DPTForDepthEstimation(config).eval()


def _depth_images() -> Any:
    return transformers.DPTImageProcessor(size={"height": 32, "width": 32})


def _z_control(channels: int = 4) -> Any:
    sizes = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    net = seeded("ZImageControlNetModel", control_layers_places=[0], control_in_dim=channels, **sizes)()
    for parameter in net.parameters():
        parameter.data.normal_(std=0.1)
    return net


def _chroma() -> Any:
    """With an entry of its config that the pipeline reads and the class does not have."""
    transformer = denoiser("ChromaTransformer2DModel")
    transformer.register_to_config(guidance_embeds=False)
    return transformer


def _ernie() -> Any:
    """With a last layer that is not zero, as it is where training begins."""
    transformer = denoiser("ErnieImageTransformer2DModel")
    for parameter in transformer.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1)
    return transformer


def _sana_control() -> Any:
    known = inspect.signature(diffusers.SanaControlNetModel.__init__).parameters
    config = denoiser("SanaTransformer2DModel").config
    return seeded("SanaControlNetModel", **{name: config[name] for name in known if name in config})()


def _example_encoder() -> Any:
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder

    torch.manual_seed(4)
    config = transformers.CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=CLIP_SIDE,
        patch_size=CLIP_SIDE // 2,
        projection_dim=12,
    )
    return PaintByExampleImageEncoder(config).eval()


def _unconditional_text() -> Any:
    from diffusers.pipelines.deprecated.vq_diffusion import LearnedClassifierFreeSamplingEmbeddings

    return LearnedClassifierFreeSamplingEmbeddings(learnable=True, hidden_size=12, length=77)


def _many_languages() -> Any:
    """The text encoder of Kandinsky 2.1."""
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(11)
    config = MCLIPConfig(
        transformerDimSize=12,
        imageDimSize=12,
        vocab_size=len(chat_tokenizer()),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
        pad_token_id=2,
    )
    return MultilingualCLIP(config).eval()


def wuerstchen_prior() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior

    torch.manual_seed(0)
    return WuerstchenPrior(c_in=16, c=8, c_cond=12, c_r=8, depth=1, nhead=2).eval()


def _wuerstchen_decoder() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt

    torch.manual_seed(0)
    decoder = WuerstchenDiffNeXt(
        c_cond=8,
        c_r=8,
        c_hidden=[8, 8],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        clip_embd=12,
    ).eval()
    for parameter in decoder.parameters():
        if not parameter.any():  # as they are where training begins
            parameter.data.normal_(std=0.1)
    return decoder


def _languages() -> Any:
    """The text encoder of AltDiffusion."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )

    torch.manual_seed(12)
    config = RobertaSeriesConfig(
        vocab_size=len(chat_tokenizer()),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
        project_dim=12,
    )
    return RobertaSeriesModelWithTransformation(config).eval()


def talk() -> Any:
    """A tokenizer whose chats are lists of parts."""
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    return tokenizer


def _flat_unet() -> Any:
    """The U-Net of texts of Versatile Diffusion."""
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel

    torch.manual_seed(0)
    return UNetFlatConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlockFlat", "DownBlockFlat"),
        up_block_types=("UpBlockFlat", "CrossAttnUpBlockFlat"),
        cross_attention_dim=12,
        attention_head_dim=4,
    ).eval()


_hunyuan_image_vae = seeded(
    "AutoencoderKLHunyuanImage",
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(32, 32),
    layers_per_block=1,
    spatial_compression_ratio=2,
    sample_size=32,
    scaling_factor=0.5,
)
_KLEIN = {
    "transformer": of("Flux2Transformer2DModel", joint_attention_dim=36, guidance_embeds=False),
    "text_encoder": functools.partial(
        language_model, "Qwen3ForCausalLM", "Qwen3Config", num_hidden_layers=28
    ),
}
_TOKENS = {
    "vqvae": functools.partial(vq_model, vq_embed_dim=4),
    "transformer": of(
        "Transformer2DModel",
        "tokens",
        num_vector_embeds=17,
        num_embeds_ada_norm=100,
        cross_attention_dim=12,
    ),
    "scheduler": functools.partial(diffusers.VQDiffusionScheduler, num_vec_classes=17),
    "learned_classifier_free_sampling_embeddings": _unconditional_text,
}
_QWEN_NET = {"transformer": of("QwenImageTransformer2DModel")}
_EMBEDS = {"image_embeds": (12,), "negative_image_embeds": (12,)}
_decoder = functools.partial(
    of,
    UNET,
    out_channels=8,
    addition_embed_type="image",
    encoder_hid_dim=12,
    encoder_hid_dim_type="image_proj",
    addition_embed_type_num_heads=2,
)
_HINTED = MOVQ | {"unet": _decoder(in_channels=8, addition_embed_type="image_hint")}
_multilingual = functools.partial(of, UNET, "kandinsky", encoder_hid_dim=12, out_channels=8)
_KANDINSKY = MOVQ | {
    "unet": _multilingual(),
    "text_encoder": _many_languages,
    "tokenizer": functools.partial(chat_tokenizer, 77),
}
_XL_CONTROL = XL | {"controlnet": xl_control}
_XL_UNION = XL | {"controlnet": _union}
_MODE = {"call": {"control_mode": [0]}, "recorded": True}

IMAGES: tuple[Drawing, ...] = (
    *drawings(INPAINT, "StableDiffusionControlNetPAGInpaintPipeline", {"controlnet": control}, **MASKED),
    *drawings(
        CONTROLLED,
        "StableDiffusionXLControlNetPAGPipeline StableDiffusionXLControlNetImg2ImgPipeline "
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        _XL_CONTROL,
        steps=4,
        **PICTURES,
    ),
    *drawings(INPAINT, "StableDiffusionXLControlNetInpaintPipeline", _XL_CONTROL, **MASKED),
    *drawings(
        CONTROLLED,
        "StableDiffusionXLControlNetUnionPipeline StableDiffusionXLControlNetUnionImg2ImgPipeline",
        _XL_UNION,
        steps=4,
        **_MODE,
        **PICTURES,
    ),
    *drawings(INPAINT, "StableDiffusionXLControlNetUnionInpaintPipeline", _XL_UNION, **_MODE, **MASKED),
    *drawings(CONTROLLED, "StableDiffusionControlNetXSPipeline", _xs(), **PICTURES),
    *drawings(
        CONTROLLED,
        "StableDiffusionXLControlNetXSPipeline",
        _xs("xl", cross_attention_dim=24, projection_class_embeddings_input_dim=36),
        **PICTURES,
    ),
    *drawings(
        CONTROLLED,
        "StableDiffusionXLAdapterPipeline",
        {"unet": _attention_last(), "adapter": _full_adapter},
        **PICTURES,
    ),
    *drawings(
        FROM_TEXT,
        "StableDiffusionLDM3DPipeline",
        {"vae": functools.partial(tiny_vae, in_channels=6, out_channels=6)},
    ),
    *drawings(FROM_TEXT, "StableDiffusionModelEditingPipeline", {"scheduler": diffusers.DDIMScheduler}),
    *drawings(FROM_TEXT, "StableDiffusionParadigmsPipeline", {"scheduler": diffusers.DDPMParallelScheduler}),
    *drawings(
        FROM_IMAGE,
        "CycleDiffusionPipeline",
        {"scheduler": functools.partial(diffusers.DDIMScheduler, set_alpha_to_one=False)},
        call={"source_prompt": "a thin zero"},
        **PICTURES,
    ),
    *drawings(
        FROM_TEXT,
        "StableDiffusionAttendAndExcitePipeline",
        batch_size=1,
        call={"token_indices": [1], "attn_res": [16, 16]},
        recorded=True,
    ),
    *drawings(
        CONTROLLED,
        "FluxControlPipeline FluxControlImg2ImgPipeline FluxControlInpaintPipeline",
        FLUX
        | {
            "transformer": of(
                "FluxTransformer2DModel", pooled_projection_dim=12, in_channels=8, out_channels=4
            )
        },
        **MASKED,
    ),
    *drawings(
        CONTROLLED,
        "FluxControlNetPipeline FluxControlNetImg2ImgPipeline FluxControlNetInpaintPipeline",
        FLUX | {"controlnet": _FLUX_NET},
        **MASKED,
    ),
    *drawings(
        CONTROLLED,
        "StableDiffusion3ControlNetPipeline",
        SD3 | {"controlnet": functools.partial(_SD3_NET, num_extra_conditioning_channels=0)},
        **PICTURES,
    ),
    *drawings(
        INPAINT,
        "StableDiffusion3ControlNetInpaintingPipeline",
        SD3 | {"controlnet": functools.partial(_SD3_NET, num_extra_conditioning_channels=1)},
        **MASKED,
    ),
    *drawings(
        FROM_TEXT,
        "StableDiffusionGLIGENPipeline",
        {"unet": of(UNET, attention_type="gated")},
        call={
            "gligen_phrases": ["zero"],
            "gligen_boxes": [[0.1, 0.1, 0.5, 0.5]],
            "gligen_scheduled_sampling_beta": 1.0,
        },
        recorded=True,
    ),
    *drawings(
        EDIT,
        "StableDiffusionDiffEditPipeline",
        rows={"mask_image": (16, 16), "image_latents": (1, 4, 16, 16)},
    ),
    *drawings(
        EDIT,
        "StableDiffusionPix2PixZeroPipeline",
        {"caption_generator": lambda: None, "caption_processor": lambda: None},
        rows={"source_embeds": (77, 12), "target_embeds": (77, 12)},
    ),
    *drawings(
        FROM_IMAGE,
        "StableDiffusionDepth2ImgPipeline",
        {"unet": of(UNET, in_channels=5), "depth_estimator": _depth, "feature_extractor": _depth_images},
        **PICTURES,
    ),
    *drawings(
        CONTROLLED,
        "CogView4ControlPipeline",
        {"transformer": of("CogView4Transformer2DModel", in_channels=8)},
        **PICTURES,
    ),
    *drawings(
        INPAINT, "ChromaInpaintPipeline", {"vae": flux_vae, "transformer": _chroma}, in_memory=True, **MASKED
    ),
    *drawings(
        CONTROLLED,
        "QwenImageControlNetPipeline",
        QWEN
        | {
            "controlnet": functools.partial(
                _controlling,
                "QwenImageControlNetModel",
                _QWEN_NET,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
            )
        },
        **PICTURES,
    ),
    *drawings(
        INPAINT,
        "QwenImageControlNetInpaintPipeline",
        QWEN
        | {
            "controlnet": functools.partial(
                _controlling,
                "QwenImageControlNetModel",
                _QWEN_NET,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                extra_condition_channels=4,
            )
        },
        **MASKED,
    ),
    *drawings(CONTROLLED, "ZImageControlNetPipeline", ZIMAGE | {"controlnet": _z_control}, **PICTURES),
    *drawings(
        INPAINT,
        "ZImageControlNetInpaintPipeline",
        ZIMAGE | {"controlnet": functools.partial(_z_control, 9)},
        **MASKED,
    ),
    *drawings(
        CONTROLLED,
        "HunyuanDiTControlNetPipeline",
        HUNYUAN_DIT
        | {
            "controlnet": lambda: _controlling(
                "HunyuanDiT2DControlNetModel",
                HUNYUAN_DIT,
                conditioning_channels=4,
                transformer_num_layers=4,
            )
        },
        **PICTURES,
    ),
    *drawings(CONTROLLED, "SanaControlNetPipeline", {"controlnet": _sana_control}, **PICTURES),
    *drawings(
        FROM_TEXT,
        "LDMTextToImagePipeline",
        {"bert": PARTS["T5EncoderModel"], "tokenizer": chat_tokenizer, "unet": of(UNET)},
    ),
    *drawings(
        INPAINT,
        "PaintByExamplePipeline",
        {"unet": of(UNET, in_channels=9), "image_encoder": _example_encoder},
        prompts=None,
        in_memory=True,
        **MASKED,
    ),
    *drawings(FROM_TEXT, "VQDiffusionPipeline", _TOKENS, in_memory=True, batch_size=1),
    *drawings(
        FROM_IMAGE,
        "UnCLIPImageVariationPipeline",
        {name: part for name, part in UNCLIP_PIXELS.items() if not name.startswith("prior")}
        | {"feature_extractor": clip_images},
        prompts=None,
        in_memory=True,
        **PICTURES,
    ),
    *drawings(
        "decomposition",
        "MarigoldIntrinsicsPipeline",
        {
            "unet": of(UNET, in_channels=12, out_channels=8),
            "target_properties": lambda: {"target_names": ["albedo", "material"]},
            "default_denoising_steps": lambda: 2,
            "default_processing_resolution": lambda: 0,
        },
        prompts=None,
        **PICTURES,
    ),
    *drawings(
        FROM_TEXT,
        "PRXPixelPipeline",
        {
            "transformer": of("PRXTransformer2DModel", in_channels=3),
            "text_encoder": PARTS["T5EncoderModel"],
            "tokenizer": chat_tokenizer,
        },
    ),
    *drawings(FROM_NOTHING, "KarrasVePipeline", prompts=None, in_memory=True),
    *drawings(FROM_NOTHING, "ScoreSdeVePipeline", prompts=None),
    *drawings(FROM_TEXT, "KandinskyV22Pipeline", DECODED, prompts=None, rows=_EMBEDS),
    *drawings(
        FROM_IMAGE, "KandinskyV22Img2ImgPipeline", DECODED, prompts=None, rows=_EMBEDS, steps=4, **PICTURES
    ),
    *drawings(
        INPAINT,
        "KandinskyV22InpaintPipeline",
        DECODED | {"unet": _decoder(in_channels=9)},
        prompts=None,
        rows=_EMBEDS,
        **MASKED,
    ),
    *drawings(
        CONTROLLED,
        "KandinskyV22ControlnetPipeline",
        _HINTED,
        prompts=None,
        rows=_EMBEDS | {"hint": (3, 128, 128)},
    ),
    *drawings(
        CONTROLLED,
        "KandinskyV22ControlnetImg2ImgPipeline",
        _HINTED,
        prompts=None,
        steps=4,
        rows=_EMBEDS | {"hint": (3, 128, 128)},
        **PICTURES,
    ),
    *drawings(
        "prior", "KandinskyV22PriorEmb2EmbPipeline", {"prior": PRIOR}, call={"strength": 1.0}, **PICTURES
    ),
    *drawings(FROM_TEXT, "KandinskyPipeline", _KANDINSKY, rows=_EMBEDS),
    *drawings(FROM_IMAGE, "KandinskyImg2ImgPipeline", _KANDINSKY, steps=4, rows=_EMBEDS, **PICTURES),
    *drawings(
        INPAINT,
        "KandinskyInpaintPipeline",
        _KANDINSKY | {"unet": _multilingual(in_channels=9)},
        rows=_EMBEDS,
        **MASKED,
    ),
    *drawings(FROM_TEXT, "KandinskyCombinedPipeline", _KANDINSKY | {"prior_prior": PRIOR}),
    *drawings(
        FROM_IMAGE,
        "KandinskyImg2ImgCombinedPipeline",
        _KANDINSKY | {"prior_prior": PRIOR},
        steps=4,
        **PICTURES,
    ),
    *drawings(
        INPAINT,
        "KandinskyInpaintCombinedPipeline",
        _KANDINSKY | {"unet": _multilingual(in_channels=9), "prior_prior": PRIOR},
        **MASKED,
    ),
    *drawings(
        FROM_TEXT,
        "StableCascadeDecoderPipeline",
        {"decoder": CASCADE_BOTH["decoder"]},
        in_memory=True,
        rows={"image_embeddings": (16, 3, 3)},
    ),
    *drawings(
        FROM_TEXT,
        "WuerstchenDecoderPipeline",
        {"decoder": _wuerstchen_decoder},
        in_memory=True,
        batch_size=1,
        rows={"image_embeddings": (16, 3, 3)},
    ),
    *drawings(
        FROM_TEXT,
        "WuerstchenCombinedPipeline",
        {"prior_prior": wuerstchen_prior, "decoder": _wuerstchen_decoder},
        in_memory=True,
        batch_size=1,
        side=128,
    ),
    *drawings(
        FROM_TEXT,
        "Flux2Pipeline",
        {
            "transformer": of("Flux2Transformer2DModel", joint_attention_dim=36),
            "text_encoder": functools.partial(
                language_model, "LlamaForCausalLM", "LlamaConfig", num_hidden_layers=30
            ),
            "tokenizer": talk,
        },
    ),
    *drawings(EDIT, "Flux2KleinKVPipeline", _KLEIN, side=64, **PICTURES),
    *drawings(INPAINT, "Flux2KleinInpaintPipeline", _KLEIN, **MASKED),
    *drawings(
        FROM_TEXT,
        "ErnieImagePipeline",
        {
            "transformer": _ernie,
            "text_encoder": PARTS["LlamaModel"],
            "tokenizer": chat_tokenizer,
        },
    ),
    *drawings(
        FROM_TEXT,
        "HunyuanImagePipeline",
        {
            "transformer": of("HunyuanImageTransformer2DModel", text_embed_2_dim=12, patch_size=(1, 1)),
            "vae": _hunyuan_image_vae,
        },
    ),
    *drawings(
        FROM_TEXT,
        "NucleusMoEImagePipeline",
        {
            "transformer": of("NucleusMoEImageTransformer2DModel", out_channels=1),
            "text_encoder": PARTS["Qwen3VLForConditionalGeneration"],
            "processor": talk,
        },
    ),
    *drawings(
        FROM_TEXT,
        "DreamLitePipeline DreamLiteMobilePipeline",
        {"processor": chat_tokenizer, "tokenizer": chat_tokenizer},
        batch_size=1,
    ),
    *drawings(EDIT, "JoyImageEditPlusPipeline", {"processor": talk}, **PICTURES),
    *drawings(
        FROM_TEXT,
        "AltDiffusionPipeline",
        {"text_encoder": _languages, "tokenizer": functools.partial(chat_tokenizer, 77)},
        in_memory=True,
    ),
    *drawings(
        FROM_IMAGE,
        "AltDiffusionImg2ImgPipeline",
        {"text_encoder": _languages, "tokenizer": functools.partial(chat_tokenizer, 77)},
        in_memory=True,
        **PICTURES,
    ),
    *drawings(
        FROM_TEXT,
        "VersatileDiffusionTextToImagePipeline",
        {"image_unet": of(UNET), "text_unet": _flat_unet},
        in_memory=True,
        denoiser="image_unet",
    ),
    *drawings(
        FROM_IMAGE,
        "VersatileDiffusionImageVariationPipeline",
        {"image_unet": of(UNET), "image_feature_extractor": clip_images},
        prompts=None,
        **PICTURES,
    ),
)
