"""The arguments of a pipeline's call, checked before anything is drawn."""

import inspect
from collections.abc import Mapping
from typing import Any

from qsd.denoisers.components import denoiser_of
from qsd.support.errors import QsdError

_OWN = {
    "prompt": "prompts",
    "class_labels": "prompts",
    "image": "images",
    "images": "images",
    "mask_image": "images",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "true_cfg_scale": "guidance",
    "height": "height",
    "width": "width",
    "num_frames": "num_frames",
    "batch_size": "batch_size",
    "generator": "noise_seed",
    "num_images_per_prompt": "num_images",
    "num_videos_per_prompt": "num_images",
}
_FORBIDDEN = ("output_type", "return_dict", "latents", "callback_on_step_end", "callback")
_GUIDANCE = ("guidance_scale", "prior_guidance_scale", "decoder_guidance_scale")


def accepted_by(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of a pipeline's call by name."""
    return inspect.signature(pipe.__call__).parameters


def call_options(
    pipe: Any, *, steps: int, guidance: float, chosen: Mapping[str, Any], call: Mapping[str, Any]
) -> dict[str, Any]:
    """What the pipeline's call takes beside conditions and generators.

    Args:
        pipe: a diffusers pipeline.
        steps: denoising steps, of every stage of a pipeline with several.
        guidance: classifier-free guidance scale.
        chosen: what the settings choose by name (sizes, frames, text length); None leaves it out.
        call: further arguments by name, see :func:`check_call`.

    Raises:
        QsdError: the pipeline has no choice of a chosen name, or refuses an argument of ``call``.
    """
    accepted = accepted_by(pipe)
    wanted = {name: value for name, value in chosen.items() if value is not None}
    for name in wanted:
        if name not in accepted:
            raise QsdError(f"{type(pipe).__name__}: has no choice of {name}; leave it out")
    check_call(pipe, call)
    fixed: dict[str, Any] = {
        "output_type": "np",  # in this form alone all pipelines return images from 0 to 1
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    usable = {name: value for name, value in fixed.items() if name in accepted}
    stages = {name: steps for name in accepted if name.endswith("num_inference_steps")}
    return usable | stages | wanted | guidance_of(pipe, guidance) | dict(call)


def check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    """Refuses what ``call`` may not say to a pipeline.

    Raises:
        QsdError: the pipeline's call has no such argument, another setting decides it, or its value is of
            another kind than the argument's default.
    """
    name, accepted = type(pipe).__name__, accepted_by(pipe)
    for argument, value in call.items():
        if argument in _OWN:
            raise QsdError(f"call: {argument} is decided by the setting {_OWN[argument]}; set that instead")
        if argument in _FORBIDDEN:
            raise QsdError(f"call: {argument} is decided by qsd; leave it out")
        if argument not in accepted:
            raise QsdError(
                f"call: {name} has no argument {argument!r}; it has {', '.join(sorted(accepted))[:300]}"
            )
        default = accepted[argument].default
        if isinstance(default, bool | int | float | str) and not _is_like(value, default):
            raise QsdError(
                f"call: {argument} of {name} is a {type(default).__name__} ({default!r} by default), "
                f"not {value!r}; give one of that kind"
            )


def guidance_of(pipe: Any, guidance: float) -> dict[str, float]:
    """The arguments of a pipeline's call that mean classifier-free guidance of a scale.

    A denoiser distilled to take the scale as an input (``guidance_embeds``) is given the scale and is not
    guided on top of that.

    Args:
        pipe: a diffusers pipeline.
        guidance: 1 for none: the prediction is then the conditional one.
    """
    if type(pipe).__name__.startswith(("ZImage", "Krea2")):
        return {"guidance_scale": guidance - 1}  # they add that many times (conditional - unconditional)
    accepted = accepted_by(pipe)
    embeds: Any = getattr(denoiser_of(pipe), "config", {})
    if "true_cfg_scale" in accepted and not embeds.get("guidance_embeds"):
        return {"true_cfg_scale": guidance}
    return {name: guidance for name in _GUIDANCE if name in accepted}


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))
