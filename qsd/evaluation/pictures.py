"""Pictures that a pipeline edits, animates or enlarges, and what it draws brought into one form."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qsd.denoisers.pictured import is_needed, mask_name, picture_names
from qsd.evaluation.call import accepted_by
from qsd.support.errors import QsdError
from qsd.support.hashing import array_hash, json_hash
from qsd.support.paths import find

_MASK_SUFFIX = "_mask"
_FRAMES = 9
"""Of a video that one picture stands for."""
_CHANNELS = 4
"""Of a picture, at most."""


def load_pictures(pipe: Any, folder: str, count: int) -> dict[str, list[Any]]:
    """The pictures of a folder, in the order of their names, as arguments of a pipeline's call.

    Args:
        pipe: a diffusers pipeline that takes pictures (image-to-image, image-to-video, edit, inpaint,
            super-resolution).
        folder: of image files. ``NAME_mask.png`` is the mask of ``NAME.png``, white where it is painted anew.
        count: how many pictures are needed.

    Returns:
        Name of the argument -> one value for each image; a pipeline that takes a video gets the picture as
        all of its frames.

    Raises:
        QsdError: the pipeline takes no pictures, there are too few, or a mask is missing.
    """
    accepted = accepted_by(pipe)
    names = picture_names(accepted)
    if not names:
        raise QsdError(f"{type(pipe).__name__}: draws from no images; leave images out")
    files, plain = _files(folder, count)
    pictures: list[Any] = [Image.open(file).convert("RGB") for file in plain]
    frames = 9
    chosen = {
        name: [[picture] * frames for picture in pictures] if name == "video" else pictures for name in names
    }
    mask = mask_name(accepted)
    if mask is not None and (_needs_mask(pipe, mask) or _has_masks(files)):
        chosen[mask] = [_mask_of(file) for file in plain]
    return chosen


def open_pictures(folder: str, count: int, mode: str) -> list[Any]:
    """The first pictures of a folder that are no masks, in the order of their names.

    Args:
        folder: of image files.
        count: how many are needed.
        mode: of Pillow, such as ``RGB``.

    Raises:
        QsdError: there are fewer.
    """
    return [Image.open(file).convert(mode) for file in _files(folder, count)[1]]


def pictures_hash(folder: str, count: int) -> str:
    """Hash of the pixels of the first pictures of a folder and of all its masks."""
    files, plain = _files(folder, count)
    masks = [file for file in files if file.stem.endswith(_MASK_SUFFIX)]
    pixels = {file.name: array_hash(np.asarray(Image.open(file).convert("RGB"))) for file in plain + masks}
    return json_hash([pixels[file.name] for file in plain + masks])


def _files(folder: str, count: int) -> tuple[list[Path], list[Path]]:
    """All image files of a folder, and the first ``count`` of those that are no masks.

    Raises:
        QsdError: there are fewer.
    """
    path = find(folder)
    files = sorted(file for file in path.glob("*") if file.suffix.lower() in Image.registered_extensions())
    plain = [file for file in files if not file.stem.endswith(_MASK_SUFFIX)]
    if len(plain) < count:
        raise QsdError(f"{folder}: {len(plain)} images for {count}; lower num_images or add images")
    return files, plain[:count]


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
    is_embedding = values.ndim == 4 and min(values.shape[1], values.shape[3]) > _CHANNELS
    if values.ndim <= 3 or is_embedding:
        sound = values if values.ndim == 3 else values.flatten(1)[:, None]
        return (sound / 2 + 0.5)[:, None, None].expand(-1, -1, 3, -1, -1)
    if values.ndim != 4 or values.shape[3] <= _CHANNELS:  # else the channels come first
        values = values.movedim(-1, -3)
    frames = values if values.ndim == 5 else values[:, None]
    return frames.expand(-1, -1, 3, -1, -1) if frames.shape[2] == 1 else frames[:, :, :3]


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


def _mask_of(file: Path) -> Any:
    mask = next(iter(sorted(file.parent.glob(f"{file.stem}{_MASK_SUFFIX}.*"))), None)
    if mask is None:
        raise QsdError(f"{file}: has no mask; add {file.stem}{_MASK_SUFFIX}.png, white where it is painted")
    return Image.open(mask).convert("L")
