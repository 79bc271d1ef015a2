"""Further pipelines of images: variants of the families of ``drawing_cases.py``, and rarer ones."""

import functools
import inspect
from typing import Any

import diffusers
from drawing_case import (
    FLUX,
    FROM_IMAGE,
    FROM_TEXT,
    INPAINT,
    MASKED,
    PICTURES,
    SD3,
    UNET,
    XL,
    XL_UNET,
    Drawing,
    control,
    drawings,
    of,
    xl_control,
)
from drawing_parts import seeded
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
_XL_CONTROL = XL | {"controlnet": xl_control}
_XL_UNION = XL | {"controlnet": _union}
_MODE = {"call": {"control_mode": [0]}}

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
    *drawings(FROM_IMAGE, "CycleDiffusionPipeline", call={"source_prompt": "a thin zero"}, **PICTURES),
    *drawings(
        FROM_TEXT,
        "StableDiffusionAttendAndExcitePipeline",
        call={"token_indices": [1], "attn_res": [8, 8]},
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
)
