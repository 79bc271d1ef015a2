"""Which arguments of a pipeline's call are pictures, and which are masks of pictures."""

import inspect
from collections.abc import Mapping
from typing import Any

TENSORS = ".safetensors"

_FIRST = ("image", "images", "video", "example_image", "control_image", "input_images")
_BESIDE = ("control_image", "example_image", "original_image")
"""Further pictures that some pipelines take beside their image."""
_MASKS = ("mask_image", "mask", "mask_video", "control_mask")
_WORDS = ("image", "images", "video")

Parameters = Mapping[str, inspect.Parameter]


def picture_names(accepted: Parameters) -> list[str]:
    """Arguments that are pictures: the one that a pipeline draws from, and those that it needs beside it.

    Args:
        accepted: parameters of the pipeline's call.

    Returns:
        None of them for a pipeline that takes no pictures; the first is drawn from.
    """
    first = next((name for name in _FIRST if name in accepted), None)
    beside = [name for name in _BESIDE if name in accepted and first == "image"]
    needed = [name for name in accepted if is_picture(name) and is_needed(accepted[name])]
    names = ([] if first is None else [first]) + beside + needed
    return [name for name in dict.fromkeys(names) if not is_mask(name)]


def mask_name(accepted: Parameters) -> str | None:
    """The argument that is the mask of the picture, if there is one."""
    return next((name for name in _MASKS if name in accepted), None)


def is_mask(name: str) -> bool:
    """Whether an argument of that name is a mask of a picture."""
    return name in _MASKS


def is_picture(name: str) -> bool:
    """Whether an argument of that name is a picture or a video, such as ``reference_image``."""
    return name.split("_")[-1] in _WORDS or is_mask(name)


def is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a call cannot do without an argument."""
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


def is_in_files(argument: str, value: Any) -> bool:
    """Whether an argument names a safetensors file, or is a picture and names a folder."""
    return isinstance(value, str) and (value.endswith(TENSORS) or is_picture(argument))
