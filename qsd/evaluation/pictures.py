"""Pictures that a pipeline edits, animates or enlarges, and what it draws brought into one form."""

import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence

from qsd.denoisers.decoders import COLOURS, WITH_TRANSPARENCY, decoder_of, picture_mode
from qsd.denoisers.pictured import (
    as_argument,
    is_mask,
    is_needed,
    is_video,
    mask_name,
    picture_names,
    takes_videos,
)
from qsd.evaluation.call import accepted_by
from qsd.support.errors import QsdError, first_line
from qsd.support.hashing import array_hash, json_hash
from qsd.support.paths import find

_MASK_SUFFIX = "_mask"
_FRAMES = 9
"""Of a video that one picture stands for, where the pipeline has no number of its own."""
_CHANNELS = 4
"""Of a picture, at most: three colours and transparency."""


def load_pictures(pipe: Any, folder: str, count: int, num_frames: int | None = None) -> dict[str, list[Any]]:
    """The pictures of a folder, in the order of their names, as arguments of a pipeline's call.

    Args:
        pipe: a diffusers pipeline that takes pictures (image-to-image, image-to-video, edit, inpaint,
            super-resolution).
        folder: of image files, or of videos: folders of frames in the order of their names, or animated
            images. ``NAME_mask.png`` is the mask of ``NAME.png``, white where it is painted anew. Pictures
            keep their transparency where the pipeline's encoder reads it.
        count: how many pictures are needed.
        num_frames: of what is drawn, if it is chosen.

    Returns:
        Name of the argument -> one value for each image; a pipeline that takes a video gets a picture as
        all of its frames.

    Raises:
        QsdError: the pipeline takes no pictures, there are too few, or a mask is missing.
    """
    accepted = accepted_by(pipe)
    files, plain = _files(folder, count)
    pictures = [_frames(file, picture_mode(pipe)) for file in plain]
    moving = any(len(frames) > 1 for frames in pictures)
    names = picture_names(accepted, moving=moving)
    if not names:
        raise QsdError(f"{type(pipe).__name__}: draws from no images; leave images out")
    chosen = {
        name: [_as_argument(pipe, name, *item, num_frames) for item in zip(plain, pictures, strict=True)]
        for name in names
    }
    mask = mask_name(accepted)
    if mask is not None and (_needs_mask(pipe, mask) or _has_masks(files)):
        masks = [_mask_of(file) for file in plain]
        as_video = inspect.Parameter("mask_video", inspect.Parameter.KEYWORD_ONLY)
        parameter = as_video if is_video(names[0]) and not is_video(mask) else accepted[mask]
        number = _number_of_frames(pipe, num_frames)
        chosen[mask] = [as_argument(parameter, frames, number) for frames in masks]
    return chosen


def open_pictures(
    pipe: Any, argument: str, folder: str, count: int, num_frames: int | None = None
) -> list[Any]:
    """The first pictures or videos of a folder that are no masks, in the order of their names.

    Args:
        pipe: a diffusers pipeline.
        argument: of its call.
        folder: as for :func:`load_pictures`.
        count: how many are needed.
        num_frames: likewise.

    Raises:
        QsdError: there are fewer.
    """
    mode = "L" if is_mask(argument) else picture_mode(pipe)
    plain = _files(folder, count)[1]
    return [_as_argument(pipe, argument, file, _frames(file, mode), num_frames) for file in plain]


def pictures_hash(folder: str, count: int) -> str:
    """Hash of the pixels of the first pictures of a folder, transparency included, and of all its masks."""
    files, plain = _files(folder, count)
    masks = [file for file in files if file.stem.endswith(_MASK_SUFFIX)]
    hashes = [[array_hash(np.asarray(frame)) for frame in _frames(file, None)] for file in plain + masks]
    return json_hash([frames[0] if len(frames) == 1 else frames for frames in hashes])


def _files(folder: str, count: int) -> tuple[list[Path], list[Path]]:
    """All image files and folders of frames of a folder, and the first ``count`` that are no masks.

    Raises:
        QsdError: there are fewer.
    """
    path = find(folder)
    files = sorted(
        file
        for file in path.glob("*")
        if file.suffix.lower() in _extensions() or (file.is_dir() and not file.name.startswith("."))
    )
    plain = [file for file in files if not file.stem.endswith(_MASK_SUFFIX)]
    if len(plain) < count:
        raise QsdError(f"{folder}: {len(plain)} images for {count}; lower num_images or add images")
    return files, plain[:count]


def _extensions() -> Collection[str]:
    return Image.registered_extensions()


def _frames(file: Path, mode: str | None) -> list[Any]:
    """The pictures of a folder of frames or of an animated image; else the picture alone.

    Args:
        file: or folder.
        mode: of the pictures; None for colours, with transparency where the file has it.
    """
    if file.is_dir():
        frames = [frame for frame in sorted(file.glob("*")) if frame.suffix.lower() in _extensions()]
        if not frames:
            raise QsdError(f"{file}: holds no images; put the frames of a video into it, or remove it")
        return [picture for frame in frames for picture in _opened(frame, mode)[:1]]
    return _opened(file, mode)


def _opened(file: Path, mode: str | None) -> list[Any]:
    try:
        with Image.open(file) as opened:
            return [
                frame.convert(mode or (WITH_TRANSPARENCY if frame.has_transparency_data else COLOURS))
                for frame in ImageSequence.Iterator(opened)
            ]
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise QsdError(
            f"{file}: cannot be read as an image ({first_line(error)}); get it again or remove it"
        ) from error


def _as_argument(pipe: Any, name: str, file: Path, frames: list[Any], num_frames: int | None) -> Any:
    parameter = accepted_by(pipe)[name]
    if len(frames) > 1 and not takes_videos(parameter):
        raise QsdError(
            f"{file}: has {len(frames)} frames, and {name} of {type(pipe).__name__} is one picture; save the "
            "one that is meant"
        )
    return as_argument(parameter, frames, _number_of_frames(pipe, num_frames))


def _number_of_frames(pipe: Any, num_frames: int | None) -> int:
    """Of a video that one picture stands for: as many as are drawn."""
    usual = accepted_by(pipe).get("num_frames")
    default = None if usual is None else usual.default
    return num_frames or (default if isinstance(default, int) else _FRAMES)


def may_take_pictures(pipe: Any) -> bool:
    """Whether a pipeline's call has an argument for pictures."""
    return bool(picture_names(accepted_by(pipe)))


def needs_pictures(pipe: Any, given: Collection[str] = ()) -> bool:
    """Whether a pipeline's call cannot do without an image that is not given otherwise."""
    accepted = accepted_by(pipe)
    return any(is_needed(accepted[name]) for name in picture_names(accepted) if name not in given)


def sound_of(pipe: Any, drawn: Sequence[Any]) -> torch.Tensor | None:
    """The sound that a pipeline of pictures and sound returned, in the form of :func:`frames_of`.

    Args:
        pipe: the pipeline; those that draw both decode sound by an ``audio_vae``.
        drawn: the values of its call.
    """
    if getattr(pipe, "audio_vae", None) is None or len(drawn) < 2 or drawn[1] is None:
        return None
    return frames_of(drawn[1])


def frames_of(drawn: Any) -> torch.Tensor:
    """What a pipeline returned, as float32 [B, F, 3, H, W] from 0 to 1.

    Images have one frame. Sound [B, L] or [B, C, L] from -1 to 1 becomes one frame of height C and width L,
    so that paired metrics compare its samples (in 8 bits), and so do embeddings that a prior draws. What is
    outside of the range stays so. Several pictures of one prompt (an image and its depth) are its frames.

    Args:
        drawn: the first value of a pipeline's call with ``output_type="np"``.
    """
    if isinstance(drawn, tuple):
        return torch.cat([frames_of(part) for part in drawn], dim=1)
    if isinstance(drawn, list):
        drawn = np.stack([_as_array(item) for item in drawn])
    values = torch.as_tensor(np.asarray(drawn) if not isinstance(drawn, torch.Tensor) else drawn)
    values = values.detach().float().cpu()
    if values.ndim <= 3 or _is_map(values):
        sound = values if values.ndim == 3 else values.flatten(1)[:, None]
        return (sound / 2 + 0.5)[:, None, None].expand(-1, -1, 3, -1, -1)
    if values.ndim != 4 or values.shape[3] <= _CHANNELS:  # else the channels come first
        values = values.movedim(-1, -3)
    frames = values if values.ndim == 5 else values[:, None]
    return frames.expand(-1, -1, 3, -1, -1) if frames.shape[2] == 1 else frames[:, :, :3]


def are_embeddings(pipe: Any, drawn: Any) -> bool:
    """Whether a pipeline returned what another one draws from, which is no picture and has no range.

    Args:
        pipe: a pipeline; one that draws sound has a decoder, or returns its channels.
        drawn: the first value of its call.
    """
    if not isinstance(drawn, np.ndarray | torch.Tensor) or decoder_of(pipe) is not None:
        return False
    return _is_map(drawn) or (drawn.ndim == 2 and getattr(pipe, "vocoder", None) is None)


def _is_map(values: np.ndarray | torch.Tensor) -> bool:
    """Whether values [B, C, H, W] are no picture: they have too many channels."""
    return values.ndim == 4 and min(values.shape[1], values.shape[3]) > _CHANNELS


def _as_array(item: Any) -> np.ndarray:
    if isinstance(item, list):
        return np.stack([_as_array(part) for part in item])
    if isinstance(item, Image.Image):
        return np.asarray(item.convert("RGB"), dtype=np.float32) / 255
    return item.detach().float().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)


def _needs_mask(pipe: Any, name: str) -> bool:
    """Whether a pipeline needs a mask: many give it a default that they then refuse."""
    return is_needed(accepted_by(pipe)[name]) or "Inpaint" in type(pipe).__name__


def _has_masks(files: list[Path]) -> bool:
    return any(file.stem.endswith(_MASK_SUFFIX) for file in files)


def _mask_of(file: Path) -> list[Any]:
    name = f"{file.stem}{_MASK_SUFFIX}"
    mask = next((found for found in sorted(file.parent.glob(f"{name}*")) if found.stem == name), None)
    if mask is None:
        raise QsdError(f"{file}: has no mask; add {file.stem}{_MASK_SUFFIX}.png, white where it is painted")
    return _frames(mask, "L")
