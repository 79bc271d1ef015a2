"""Real images from a folder or a tensor file, read a batch at a time and refused where they would mislead."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open

from qsd.support.errors import QsdError, first_line, printable
from qsd.support.hashing import array_hash, file_hash, json_hash
from qsd.support.paths import find

_log = logging.getLogger(__name__)
_SUFFIXES = (*(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff"), *(".ppm", ".pgm", ".gif"))
_LFS_POINTER = b"version https://git-lfs"
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_NO_RANGE = ("F", "I")
_THREADS = 4


class RealImages(Protocol):
    """Images of one size that are read as they are needed."""

    def __len__(self) -> int: ...

    def content_hash(self) -> str:
        """Hash of what the images are, not of where they lie or what they are called."""

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All images in a fixed order, uint8 [at most size, 3, H, W].

        Raises:
            QsdError: one is damaged, of another size, or has pixels without a clear meaning; names the file.
        """


def open_images(name: str) -> RealImages:
    """Opens real images.

    Args:
        name: a folder of images of one size, with its subfolders but without what is hidden; or a safetensors
            file with ``images`` uint8 [N, 1 or 3, H, W]; or the name of something shipped.

    Raises:
        QsdError: there are none, fewer than 2, or the file holds something else.
    """
    path = find(name)
    images: RealImages = _Folder(path) if path.is_dir() else _TensorFile(path)
    if len(images) < 2:
        raise QsdError(f"{name}: {len(images)} image; a distribution needs 2, and 1,000 to mean much")
    return images


class _Folder:
    """Image files, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        found = sorted(
            file
            for file in folder.rglob("*")
            if file.is_file()
            and not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)
        )
        self._files = [file for file in found if file.suffix.lower() in _SUFFIXES]
        if not self._files:
            raise QsdError(
                f"{folder}: holds no images ({', '.join(_SUFFIXES)}); give the folder of real ones"
            )
        others = sorted({file.suffix for file in found} - {file.suffix for file in self._files})
        if others:
            _log.warning(
                "%s: %d files are left out (%s); images end in %s",
                *(printable(str(folder)), len(found) - len(self._files)),
                *(", ".join(f"*{printable(suffix)}" for suffix in others), ", ".join(_SUFFIXES)),
            )

    def __len__(self) -> int:
        return len(self._files)

    def content_hash(self) -> str:
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                return json_hash(list(pool.map(file_hash, self._files)))
        except OSError as error:
            raise QsdError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        first: tuple[int, ...] | None = None
        for start in range(0, len(self), size):
            files = self._files[start : start + size]
            images = [read_image(file) for file in files]
            first = first or images[0].shape
            for file, image in zip(files, images, strict=True):
                if image.shape != first:
                    raise QsdError(
                        f"{file}: {image.shape[1]}x{image.shape[0]} pixels, but {self._files[0].name} has "
                        f"{first[1]}x{first[0]}; resize all reference images to one size"
                    )
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


class _TensorFile:
    """The tensor ``images`` of a safetensors file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, "pt") as file:
                if "images" not in file.keys():  # noqa: SIM118 (it is no dict)
                    names = ", ".join(list(file.keys())[:5])
                    raise QsdError(f"{path}: holds no `images`, but {names}; store them under that name")
                part = file.get_slice("images")
                self._shape: Sequence[int] = part.get_shape()
                kind = part.get_dtype()
        except (SafetensorError, OSError) as error:
            raise QsdError(
                f"{path}: holds no `images` ({_damage(path, error)}); give a folder or a safetensors file"
            ) from error
        if kind != "U8":
            raise QsdError(
                f"{path}: `images` are {kind}, not uint8; store whole numbers from 0 to 255 "
                "(`(images.clamp(0, 1) * 255).round().to(torch.uint8)` of floats from 0 to 1)"
            )
        if len(self._shape) != 4 or self._shape[1] not in (1, 3):
            raise QsdError(
                f"{path}: `images` of shape {list(self._shape)}, not [N, 1 or 3, H, W]; "
                "`images.permute(0, 3, 1, 2)` brings channels that stand last to the front"
            )

    def __len__(self) -> int:
        return int(self._shape[0])

    def content_hash(self) -> str:
        return json_hash([array_hash(part.numpy()) for part in self._parts(1024)])

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        for part in self._parts(size):
            yield part.expand(-1, 3, -1, -1)

    def _parts(self, size: int) -> Iterator[torch.Tensor]:
        with safe_open(self._path, "pt") as file:
            images: Any = file.get_slice("images")
            for start in range(0, len(self), size):
                yield images[start : min(start + size, len(self))]


def read_image(file: Path) -> np.ndarray:
    """One image upright and in 8 bits a channel, uint8 [H, W, 3].

    Raises:
        QsdError: damaged, no image, too large, animated, partly transparent, or with pixels whose range
            nothing tells; names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                if getattr(opened, "n_frames", 1) > 1:
                    raise QsdError(f"{file}: has {opened.n_frames} frames; save the one that is meant")  # type: ignore[attr-defined]
                return np.asarray(_eight_bit(file, ImageOps.exif_transpose(opened)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise QsdError(f"{file}: {first_line(error)}; resize it") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        if isinstance(error, QsdError):
            raise
        raise QsdError(f"{file}: {_damage(file, error)}; get the file again or remove it") from error


def _eight_bit(file: Path, image: Image.Image) -> Image.Image:
    if image.mode in _NO_RANGE:
        kind = "float" if image.mode == "F" else "32-bit integer"
        raise QsdError(f"{file}: has {kind} pixels, whose range nothing tells; save it in 8 bits")
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise QsdError(f"{file}: is partly transparent; save it on the background that is meant")
    return image.convert("RGB")


def _damage(file: Path, error: BaseException) -> str:
    """What is wrong with a file that cannot be opened."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_LFS_POINTER))
    except OSError:
        return first_line(error)
    if start == _LFS_POINTER:
        return "a Git LFS pointer, not the file itself; `git lfs pull` fetches it"
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty" if not start else "no image, whatever its name says"
    return f"damaged ({first_line(error)})"
