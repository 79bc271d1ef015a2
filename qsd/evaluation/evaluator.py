"""Measures what the images of a config are worth.

Distribution metrics (FID, KID, CLIP score, agreement) say how good the images are; paired metrics (PSNR,
latent MSE) say how far they drifted from the full-precision images of the same prompts and noise. They
disagree, so both are recorded.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.multimodal import CLIPScore

from qsd.evaluation.distribution import Distribution
from qsd.evaluation.extractors import CutToLength, clip_loader
from qsd.evaluation.generate import Generator
from qsd.evaluation.memory import enough_memory
from qsd.evaluation.settings import EvaluationSettings
from qsd.store import Label
from qsd.support.errors import QsdError

LABELS = (
    Label("fid", False, "Frechet distance of image features to the real images"),
    Label("kid", False, "unbiased polynomial MMD of image features to the real images"),
    Label("clip", True, "100 times the mean CLIP cosine of image and prompt"),
    Label("agreement", True, "share of images that the classifier gives the prompted class"),
    Label("psnr", True, "mean PSNR in dB to the full-precision images, at most 100 each"),
    Label("latent_mse", False, "mean squared distance of the final latents to full precision"),
)
_PART = 100  # images that are compared at a time: large ones would fill the memory as floats
MAX_PSNR = 100.0
"""Identical images have infinite PSNR; the mean needs a ceiling."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one config measured.

    Attributes:
        labels: value by label name; names that the settings leave out are missing.
        images: uint8 [n, 3, H, W]; of videos the middle frames, which the distribution metrics see.
        latents: float32 [n, ...], see :class:`qsd.evaluation.generate.Drawn`.
        frames: uint8 [n * F, 3, H, W], all frames, which the paired metrics compare.
        sound: uint8 [n, 3, C, L], of pipelines that draw sound beside pictures.
        are_embeddings: the paired metrics compare the latents, which are the embeddings that were drawn.
    """

    labels: dict[str, float]
    images: torch.Tensor
    latents: torch.Tensor
    frames: torch.Tensor
    sound: torch.Tensor | None = None
    are_embeddings: bool = False


class Evaluator:
    """Measures the current weights of a pipeline's denoiser.

    Attributes:
        settings: what is measured under.
        distribution: FID, KID and agreement; None where nothing is compared with real images.
        clip: the CLIP score; None where it is left out.
    """

    def __init__(self, pipe: Any, settings: EvaluationSettings) -> None:
        """Encodes the prompts and, if the settings name real images, takes their features.

        Raises:
            QsdError: prompts, images or feature extractors named by the settings are missing or too few.
        """
        self.settings = settings
        self._generator = Generator(pipe, settings, unwatched=True)
        self.distribution = Distribution(settings, pipe.device) if settings.reference else None
        self.clip = CLIPScore(clip_loader(settings.clip)).to(pipe.device) if settings.clip else None
        if self.clip is not None:
            prompts, processor = self._generator.prompts, cast(CutToLength, self.clip.processor)
            if long := processor.count_long(prompts):
                logging.getLogger(__name__).warning(
                    "%d of %d prompts have more than %d tokens; the CLIP score sees their beginnings",
                    *(long, len(prompts), processor.limit),
                )
        self._full_precision: dict[int, Measurement] = {}

    def full_precision(self, noise_seed: int) -> Measurement:
        """Measures full precision, once per seed; the denoiser must be at full precision on first call."""
        if noise_seed not in self._full_precision:
            drawn = self._measure(noise_seed, None)
            _check_drawn(drawn)
            self._full_precision[noise_seed] = drawn
        return self._full_precision[noise_seed]

    def measure(self, noise_seed: int) -> Measurement:
        """Measures the denoiser's current weights.

        Raises:
            QsdError: full precision was not measured with this seed before.
        """
        if noise_seed not in self._full_precision:
            raise QsdError(f"noise seed {noise_seed}: measure full precision first, for the paired labels")
        return self._measure(noise_seed, self._full_precision[noise_seed])

    def _measure(self, noise_seed: int, full: Measurement | None) -> Measurement:
        if self.distribution is not None:
            self.distribution.reset()
        if self.clip is not None:
            self.clip.reset()
        all_latents, all_images, all_frames, all_sound = [], [], [], []
        for rows, latents, images, frames, sound in self._generator.drawings(noise_seed):
            prompts = self._generator.prompts[rows]
            with enough_memory("measuring", self.settings.batch_size):
                if self.distribution is not None:
                    self.distribution.update(rows, images, prompts)
                if self.clip is not None:
                    self.clip.update(list(images.to(self.clip.device)), prompts)
            if self.clip is not None and not math.isfinite(self.clip.score):
                raise QsdError(
                    f"prompt {prompts[0]!r} or one drawn beside it: the CLIP features are not finite "
                    f"numbers; nothing is written (are all weights of {self.settings.clip} finite?)"
                )
            all_latents.append(latents)
            all_images.append(images)
            all_frames.append(frames.flatten(0, 1))
            if sound is not None:
                all_sound.append(sound.flatten(0, 1))
        latents, images, frames = torch.cat(all_latents), torch.cat(all_images), torch.cat(all_frames)
        heard = torch.cat(all_sound) if all_sound else None
        labels = self.distribution.labels() if self.distribution is not None else {}
        if self.clip is not None:
            labels["clip"] = float(self.clip.score / self.clip.n_samples)  # compute() clips at 0
        drawn = Measurement(labels, images, latents, frames, heard, self._generator.draws_embeddings)
        labels |= paired_labels(drawn, full or drawn)
        for name, value in labels.items():
            if not math.isfinite(value):
                raise QsdError(f"label {name} is {value}; nothing is written (too few images for it?)")
        return drawn


def headline(labels: Mapping[str, Any]) -> str:
    """The label that stands for the others: FID, or PSNR where nothing was compared with real images."""
    return "fid" if "fid" in labels else "psnr"


def paired_labels(drawn: Measurement, full: Measurement) -> dict[str, float]:
    """PSNR (dB) and latent MSE against full precision.

    PSNR is the mean over images or frames, each capped; of pictures with sound, the mean of that and of the
    PSNR of the sound, so that neither goes unmeasured. Embeddings are compared as they are, by the range of
    those of full precision.
    """
    if full.are_embeddings:
        psnr = _mean_psnr_of_values(drawn.latents, full.latents)
    else:
        psnr = _mean_psnr(drawn.frames, full.frames)
    if drawn.sound is not None and full.sound is not None:
        psnr = (psnr + _mean_psnr(drawn.sound, full.sound)) / 2
    return {"psnr": psnr, "latent_mse": float((drawn.latents - full.latents).square().mean())}


def _check_drawn(full: Measurement) -> None:
    """Refuses full precision that draws nothing, which every config would draw as well."""
    if full.are_embeddings:
        if float(full.latents.max()) > float(full.latents.min()):
            return
        raise QsdError("all that is drawn is one number, so labels would say nothing; check the weights")
    values = [full.frames] if full.sound is None else [full.frames, full.sound]
    if all(int(drawn.max()) - int(drawn.min()) <= 1 for drawn in values):
        raise QsdError(
            "all that is drawn is one colour or silence, so labels would say nothing; raise height, width "
            "and num_frames (some decoders need a whole tile of them), or check the weights of the decoder"
        )


def _mean_psnr(images: torch.Tensor, wanted: torch.Tensor) -> float:
    parts = [
        peak_signal_noise_ratio(some.float(), full.float(), data_range=255.0, dim=(1, 2, 3), reduction="none")
        for some, full in zip(images.split(_PART), wanted.split(_PART), strict=True)
    ]
    return float(torch.cat(parts).clamp(max=MAX_PSNR).mean())


def _mean_psnr_of_values(values: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of what has no range of its own, [n, ...]."""
    errors = (values.double() - wanted.double()).square().flatten(1).mean(dim=1)
    decibels = 10 * torch.log10((wanted.max() - wanted.min()).double().square() / errors)
    return float(decibels.clamp(max=MAX_PSNR).mean())
