"""Which arguments of a pipeline's call are pictures, videos and masks, and in which form."""

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

TENSORS = ".safetensors"

_FIRST = ("image", "images", "video", "example_image", "control_image", "input_images")
_BESIDE = {"image": ("control_image", "example_image", "original_image"), "video": ("conditioning_frames",)}
"""Further pictures that some pipelines take beside the first."""
_MASKS = ("mask_image", "mask", "mask_video", "control_mask")
_WORDS = ("image", "images", "video", "conditions")
_VIDEOS = ("video", "mask_video", "conditioning_frames", "controls")
_ADAPTED = "ip_adapter"

Parameters = Mapping[str, inspect.Parameter]


def picture_names(accepted: Parameters, *, moving: bool = False) -> list[str]:
    """Arguments that are pictures: the one that a pipeline draws from, and those that it needs beside it.

    Args:
        accepted: parameters of the pipeline's call.
        moving: what is given is videos.

    Returns:
        None of them for a pipeline that takes no pictures; the first is drawn from.
    """
    order = sorted(_FIRST, key=lambda name: moving and not is_video(name))
    pictures = [name for name in accepted if is_picture(name) and _ADAPTED not in name]
    first = next((name for name in (*order, *pictures) if name in accepted and not is_mask(name)), None)
    beside = [name for name in _BESIDE.get(first or "", ()) if name in accepted]
    needed = [name for name in pictures if is_needed(accepted[name])]
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
    return name.split("_")[-1] in _WORDS or is_mask(name) or is_video(name)


def is_video(name: str) -> bool:
    """Whether an argument of that name is a video, such as ``pose_video``."""
    return name in _VIDEOS or name.endswith("_video")


def is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a call cannot do without an argument."""
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


def is_in_files(argument: str, value: Any) -> bool:
    """Whether an argument names a safetensors file, or is a picture and names a folder."""
    return isinstance(value, str) and (value.endswith(TENSORS) or is_picture(argument))


def as_argument(parameter: inspect.Parameter, frames: Sequence[Image.Image], number: int) -> Any:
    """A picture or a video in the form that an argument of a call takes it in.

    Args:
        parameter: of the call.
        frames: one, or all of a video.
        number: of the frames that one picture stands for, where a video is asked for.

    Returns:
        A picture; a list of them for a video; float32 [1, 1 or 3, F, H, W] for a video that is annotated to
        be a tensor alone (from 0 to 1, and masks from 0 to 255); a list of the dataclass that the argument is
        annotated to be.
    """
    condition = _condition(parameter)
    if condition is not None:
        fields = [field.name for field in dataclasses.fields(condition)]
        moving = len(frames) > 1
        name = next(key for key in (("video", "frames") if moving else ("image", "frames")) if key in fields)
        return [condition(**{name: list(frames) if moving else frames[0]})]
    if not is_video(parameter.name):
        return frames[0]
    video = list(frames) if len(frames) > 1 else [frames[0]] * number
    return _as_tensor(video) if _is_tensor(parameter) else video


def takes_videos(parameter: inspect.Parameter) -> bool:
    """Whether an argument takes several frames."""
    return is_video(parameter.name) or _condition(parameter) is not None


def _condition(parameter: inspect.Parameter) -> type[Any] | None:
    """The dataclass of pictures, or a list of which, an argument is annotated to be."""
    for part in _parts(parameter.annotation):
        is_class = isinstance(part, type) and dataclasses.is_dataclass(part)
        names = {field.name for field in dataclasses.fields(part)} if is_class else set()
        if "frames" in names or {"image", "video"} <= names:
            return part
    return None


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def _is_tensor(parameter: inspect.Parameter) -> bool:
    """Whether an argument is annotated to be a tensor, and nothing else but None."""
    parts = [part for part in _parts(parameter.annotation) if isinstance(part, type)]
    kinds = [part for part in parts if part is not type(None)]
    return bool(kinds) and all(issubclass(part, torch.Tensor) or part is torch.FloatTensor for part in kinds)


def _as_tensor(frames: Sequence[Image.Image]) -> torch.Tensor:
    values = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).float()
    if values.ndim == 3:
        return values[None, None]
    return values.permute(3, 0, 1, 2)[None] / 255
