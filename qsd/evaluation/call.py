"""The arguments of a pipeline's call, checked before anything is drawn."""

import inspect
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pictured import is_in_files, is_mask, is_needed, picture_names
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
    checked = check_call(pipe, call)
    fixed: dict[str, Any] = {
        "output_type": "np",  # in this form alone all pipelines return images from 0 to 1
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    usable = {name: value for name, value in fixed.items() if name in accepted}
    stages: dict[str, Any] = {name: steps for name in accepted if name.endswith("num_inference_steps")}
    stages |= {
        name: [steps] * len(parameter.default)
        for name, parameter in accepted.items()
        if name.endswith("num_inference_steps_list")
    }
    scales = {} if checked.get("guidance_schedule") else guidance_of(pipe, guidance)  # one or the other
    return usable | stages | wanted | scales | checked


def check_call(pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses what ``call`` may not say to a pipeline.

    Returns:
        The arguments as the call's annotations have them: a list becomes a tuple where one is asked for.
        Those that lie in files (:mod:`qsd.evaluation.given`) are left out.

    Raises:
        QsdError: the pipeline's call has no such argument, another setting decides it, or its value is not
            finite or of another kind than the argument's default or annotation.
    """
    name, accepted = type(pipe).__name__, accepted_by(pipe)
    checked: dict[str, Any] = {}
    for argument, value in call.items():
        if argument in _OWN and not _is_left_to_call(argument, accepted):
            raise QsdError(f"call: {argument} is decided by the setting {_OWN[argument]}; set that instead")
        if argument in _FORBIDDEN:
            raise QsdError(f"call: {argument} is decided by qsd; leave it out")
        if argument not in accepted:
            raise QsdError(
                f"call: {name} has no argument {argument!r}; it has {', '.join(sorted(accepted))[:300]}"
            )
        if is_in_files(argument, value):
            continue
        default = accepted[argument].default
        if value is None and _may_be_none(accepted[argument]):
            checked[argument] = None
            continue
        if isinstance(default, bool | int | float | str) and not _is_like(value, default):
            raise QsdError(
                f"call: {argument} of {name} is a {type(default).__name__} ({default!r} by default), "
                f"not {value!r}; give one of that kind"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise QsdError(f"call: {argument} of {name} is not finite ({value}); give a number")
        checked[argument] = _as_annotated(value, argument, pipe)
    return checked


def _is_left_to_call(argument: str, accepted: Mapping[str, inspect.Parameter]) -> bool:
    """A mask without a picture, which the setting of pictures does not give."""
    return is_mask(argument) and not picture_names(accepted)


def _may_be_none(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)
    return parameter.default is None or "None" in annotation or "Optional" in annotation


def _as_annotated(value: Any, argument: str, pipe: Any) -> Any:
    """The value as the annotation of the argument has it; as it is where there is none that can be read."""
    try:
        hint = get_type_hints(type(pipe).__call__).get(argument, Any)
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # annotations of packages that are not there, or that pydantic knows nothing of
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError:
        default = accepted_by(pipe)[argument].default
        if default is not None and not _passes(adapter, default):  # the annotation is wrong
            return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value
        shown = re.sub(r"(typing|torch|PIL\.Image|numpy)\.", "", str(accepted_by(pipe)[argument].annotation))
        raise QsdError(
            f"call: {argument} of {type(pipe).__name__} cannot be {value!r}; it is {shown[:200]}"
        ) from None


def _passes(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def check_given(pipe: Any, given: Collection[str]) -> None:
    """Refuses a pipeline whose call needs what no setting gives, such as the embeddings of a prior.

    Args:
        pipe: a diffusers pipeline.
        given: names of arguments of its call.
    """
    for name, parameter in accepted_by(pipe).items():
        if not is_needed(parameter) or name in given or name == "batch_size":
            continue
        how = f"name it in call (`call: {{{name}: ...}}`)"
        if "Tensor" in str(parameter.annotation):
            how = f"name a safetensors file of it in call, a row for each image (`call: {{{name}: FILE}}`)"
        raise QsdError(
            f"{type(pipe).__name__}: its call needs {name!r}, which prompts and images do not give; {how}, "
            "or take the pipeline that makes it itself (such as a combined one)"
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
