"""What a label is measured under: the settings of an evaluation."""

import dataclasses
import math
from typing import Any, Self

from qsd.evaluation.images import RealImages, open_images
from qsd.evaluation.texts import read_classes, read_texts
from qsd.support.errors import QsdError

INCEPTION_SIZES = (64, 192, 768, 2048)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation. Paths may name something shipped.

    Attributes:
        prompts: file of prompts (a text a line, CSV, JSON, COCO captions, parquet; see
            :func:`qsd.evaluation.texts.read_texts`); the first ``num_images`` are drawn. For a
            class-conditional pipeline a prompt is the name or the number of a class. None where a pipeline
            draws from nothing or from images alone.
        reference: real images: a folder of images, or a safetensors file with ``images`` uint8
            [N, 1 or 3, H, W]. None leaves out FID, KID and agreement: only the paired labels (PSNR, latent
            MSE) and, if named, the CLIP score are measured.
        features: where FID and KID features come from: a folder of a transformers image classifier (its
            pooled penultimate features), or ``inception-2048`` (also 64, 192, 768; needs torch-fidelity).
        clip: a folder or hub id of a CLIP model for the CLIP score; none leaves it out.
        classes: file of the prompted class index of each prompt, for agreement with the classifier; none
            leaves it out. It needs ``reference``.
        holdout_prompts: file of further prompts that no label was drawn from; `qsd measure` and the winner of
            `qsd search --verify` are measured on them. No part of a store's conditions.
        holdout_classes: file of their classes, where ``classes`` are named.
        holdout_reference: real images that no label was compared with, likewise; without it held-out prompts
            are compared with ``reference``.
        prompts_column: of a file of prompts with several columns.
        classes_column: likewise.
        num_images: images per config.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1.0 is none. A guider that a pipeline has is set to it.
        height: of the images in pixels; none takes the pipeline's default.
        width: likewise.
        num_frames: of the videos of a video pipeline; none takes its default. Paired labels
            compare all frames; FID, KID, CLIP score and agreement see the middle frames.
        max_sequence_length: tokens that a prompt is padded or cut to; none takes the pipeline's default.
        images: folder of the pictures that the pipeline edits, animates or enlarges, one for each image in
            the order of their names; ``NAME_mask.png`` is the mask of ``NAME.png``. A folder of frames, or an
            animated image, is a video.
        call: further arguments of the pipeline's call by name, such as ``strength``. A tensor is named by a
            safetensors file with a row for each image, further pictures by a folder of them.
        batch_size: images per batch; fixed, because kernels may round differently per batch size.
        noise_seed: seed of the initial noise; image i of every config starts from the same noise.
        kid_subset_size: images per KID subset; lowered to the real or the drawn images where these are fewer.
        kid_subsets: number of KID subsets.
        compile: draw with denoisers compiled by torch.compile, without simulated activations. It rounds
            otherwise, so a store is labeled with it or without.
    """

    prompts: str | None = None
    reference: str | None = None
    features: str = "inception-2048"
    clip: str | None = None
    classes: str | None = None
    holdout_prompts: str | None = None
    holdout_classes: str | None = None
    holdout_reference: str | None = None
    prompts_column: str | None = None
    classes_column: str | None = None
    num_images: int = 1000
    steps: int = 20
    guidance: float = 4.5
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    images: str | None = None
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    max_sequence_length: int | None = None
    batch_size: int = 100
    noise_seed: int = 0
    kid_subset_size: int = 500
    kid_subsets: int = 20
    compile: bool = False

    def __post_init__(self) -> None:
        if self.num_images < 2:
            raise QsdError(f"num_images is {self.num_images}; FID needs at least 2, and 1,000 to mean much")
        least = {"steps": 1, "batch_size": 1, "kid_subset_size": 2, "kid_subsets": 1}
        least |= {
            name: 1
            for name in ("height", "width", "num_frames", "max_sequence_length")
            if getattr(self, name) is not None
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise QsdError(f"{name} is {getattr(self, name)}; give at least {minimum}")
        if not math.isfinite(self.guidance):
            raise QsdError(f"guidance is {self.guidance}; give a finite number, 1 for none")

    def on_first(self, num_images: int | None) -> Self:
        """The same evaluation on its first so many images; None for all.

        Raises:
            QsdError: there are not so many.
        """
        if num_images is None:
            return self
        if not 2 <= num_images <= self.num_images:
            raise QsdError(f"images {num_images}: give 2 to the evaluation's {self.num_images}")
        return dataclasses.replace(self, num_images=num_images)

    def held_out(self) -> Self:
        """The same evaluation on held-out prompts and real images; itself where none are named.

        Raises:
            QsdError: classes are named, but none of the held-out prompts, or the other way round; or held-out
                real images without real images.
        """
        if self.holdout_prompts is None and self.holdout_reference is None:
            return self
        if self.holdout_reference is not None and self.reference is None:
            raise QsdError("holdout_reference: name reference too, which labels are compared with")
        reference = self.holdout_reference or self.reference
        if self.holdout_prompts is None:
            return dataclasses.replace(self, reference=reference, holdout_reference=None)
        if (self.classes is None) != (self.holdout_classes is None):
            raise QsdError("holdout_prompts: name holdout_classes exactly where classes are named")
        return dataclasses.replace(
            self,
            prompts=self.holdout_prompts,
            classes=self.holdout_classes,
            reference=reference,
            holdout_reference=None,
            holdout_prompts=None,
            holdout_classes=None,
        )

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
            QsdError: the settings name none; see :func:`qsd.evaluation.texts.read_texts`.
        """
        if self.prompts is None:
            raise QsdError("no prompts; name a file of them as prompts")
        return read_texts(self.prompts, self.num_images, "prompts", self.prompts_column)

    def load_classes(self) -> list[int] | None:
        """The prompted class of each image, if the settings name them.

        Raises:
            QsdError: see :func:`qsd.evaluation.texts.read_classes`.
        """
        if self.classes is None:
            return None
        return read_classes(self.classes, self.num_images, self.classes_column)

    def open_reference(self) -> RealImages:
        """The real images.

        Raises:
            QsdError: the settings name none; see :func:`qsd.evaluation.images.open_images`.
        """
        if self.reference is None:
            raise QsdError("no real images to compare with; name them as reference")
        return open_images(self.reference)

    def subset_size(self, num_real: int) -> int:
        """Images per KID subset, given how many real images there are."""
        return min(self.kid_subset_size, self.num_images, num_real)

    def paths(self) -> dict[str, str]:
        """What the settings name by a path, for the record."""
        names = ("prompts", "classes", "reference", "features", "clip")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
