"""What a label is measured under: the settings of an evaluation, and the prompts and images they name."""

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find

INCEPTION_SIZES = (64, 192, 768, 2048)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation. Paths may name something shipped.

    Attributes:
        prompts: text file, one prompt a line; the first ``num_images`` are drawn. For a class-conditional
            pipeline a line is the name or the number of a class.
        reference: real images: a folder of images, or a safetensors file with ``images`` uint8
            [N, 1 or 3, H, W]. None leaves out FID, KID and agreement: only the paired labels (PSNR, latent
            MSE) and, if named, the CLIP score are measured.
        features: where FID and KID features come from: a folder of a transformers image classifier (its
            pooled penultimate features), or ``inception-2048`` (also 64, 192, 768; needs torch-fidelity).
        clip: a folder or hub id of a CLIP model for the CLIP score; none leaves it out.
        classes: text file, the prompted class index of each prompt, for agreement with the classifier; none
            leaves it out. It needs ``reference``.
        num_images: images per config.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1.0 is none.
        height: of the images in pixels; none takes the pipeline's default.
        width: likewise.
        num_frames: of the videos of a video pipeline; none takes its default. Their middle frames are the
            images.
        max_sequence_length: tokens that a prompt is padded or cut to; none takes the pipeline's default.
        batch_size: images per batch; fixed, because kernels may round differently per batch size.
        noise_seed: seed of the initial noise; image i of every config starts from the same noise.
        kid_subset_size: images per KID subset; must not exceed the real or the drawn images.
        kid_subsets: number of KID subsets.
    """

    prompts: str
    reference: str | None = None
    features: str = "inception-2048"
    clip: str | None = None
    classes: str | None = None
    num_images: int = 1000
    steps: int = 20
    guidance: float = 4.5
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    max_sequence_length: int | None = None
    batch_size: int = 100
    noise_seed: int = 0
    kid_subset_size: int = 500
    kid_subsets: int = 20

    def __post_init__(self) -> None:
        if self.num_images < 2:
            raise QsdError(f"num_images is {self.num_images}; FID needs at least 2, and 1,000 to mean much")

    def conditions(self) -> dict[str, Any]:
        """What a store records of the settings: all but the seed, with hashes of the named files."""
        values = dataclasses.asdict(self)
        del values["noise_seed"]
        for name in ("prompts", "reference", "classes", "features", "clip"):
            with contextlib.suppress(QsdError):  # a hub id or inception-2048 has no file to hash
                values[f"{name}_hash"] = _hash(find(values[name])) if values[name] else None
        return values

    def yields(self, label: str) -> bool:
        """Whether a measurement under these settings has that label."""
        compared = self.reference is not None
        return {
            "fid": compared,
            "kid": compared,
            "clip": self.clip is not None,
            "agreement": compared and self.classes is not None,
        }.get(label, True)

    def load_prompts(self) -> list[str]:
        """The prompts of the images.

        Raises:
            QsdError: fewer prompts than images.
        """
        return _first_lines(self.prompts, self.num_images, "prompts")

    def load_classes(self) -> torch.Tensor | None:
        """The prompted class of each image, int64 [num_images], if the settings name them."""
        if self.classes is None:
            return None
        return torch.tensor([int(line) for line in _first_lines(self.classes, self.num_images, "classes")])

    def load_reference(self) -> torch.Tensor:
        """The real images, uint8 [N, 3, H, W].

        Raises:
            QsdError: the settings name none, the file or folder holds none, or images of different sizes.
        """
        if self.reference is None:
            raise QsdError("no real images to compare with; name them as reference")
        path = find(self.reference)
        if path.is_dir():
            return _image_folder(path)
        try:
            images = load_file(path)["images"]
        except (SafetensorError, OSError, KeyError) as error:
            raise QsdError(
                f"{path}: holds no `images` ({first_line(error)}); give a folder or a safetensors file"
            ) from error
        return images.expand(-1, 3, -1, -1)


def _first_lines(name: str, count: int, what: str) -> list[str]:
    lines = find(name).read_text(encoding="utf-8").splitlines()
    if len(lines) < count:
        raise QsdError(f"{name}: {len(lines)} {what} for {count} images; lower num_images or add {what}")
    return lines[:count]


def _image_folder(folder: Path) -> torch.Tensor:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in Image.registered_extensions())
    if not files:
        raise QsdError(f"{folder}: holds no images; give the folder of the real images")
    images = [np.array(Image.open(file).convert("RGB")) for file in files]
    odd = next(
        (file for file, image in zip(files, images, strict=True) if image.shape != images[0].shape), None
    )
    if odd:
        raise QsdError(
            f"{odd}: differs in size from {files[0].name}; resize all reference images to one size"
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _hash(path: Path) -> str:
    """BLAKE2 of a file, of a model folder's weights, or of the names and sizes of a folder's files."""
    digest = hashlib.blake2b(digest_size=8)
    weights = sorted(path.glob("*.safetensors"))
    for file in [path] if path.is_file() else weights:
        digest.update(file.read_bytes())
    if path.is_dir() and not weights:
        for file in sorted(path.rglob("*")):
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}".encode())
    return digest.hexdigest()
