"""How drawn images compare with real ones as a distribution: FID, KID, and agreement with a classifier."""

import logging
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from qsd.evaluation.extractors import InceptionFeatures, load_features
from qsd.evaluation.generate import check_finite
from qsd.evaluation.real_features import real_features
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.errors import QsdError

_PART = 8192


class Distribution:
    """Accumulates the features of drawn images against those of the real ones."""

    def __init__(self, settings: EvaluationSettings, device: torch.device) -> None:
        """Takes the features of the real images.

        Raises:
            QsdError: images or feature extractor named by the settings are missing or too few.
        """
        self._features = load_features(settings.features).to(device)
        classes = settings.load_classes()
        self._classes = None if classes is None else torch.tensor(classes)
        if self._classes is not None and isinstance(self._features, InceptionFeatures):
            raise QsdError("agreement needs a classifier; give its folder as features or leave classes out")
        known = getattr(getattr(getattr(self._features, "model", None), "config", None), "num_labels", None)
        if classes is not None and known is not None and max(classes) >= known:
            raise QsdError(
                f"{settings.classes}: class {max(classes)} is none of the {known} of "
                f"{settings.features}; give numbers from 0 to {known - 1}"
            )
        real = real_features(settings, self._features, device)
        self._fid = frechet_metric(real)
        subset = settings.subset_size(len(real))
        if subset < settings.kid_subset_size:
            logging.getLogger(__name__).warning(
                "kid_subset_size is lowered from %d to %d: there are %d images and %d real ones",
                *(settings.kid_subset_size, subset, settings.num_images, len(real)),
            )
        self._kid = _kernel_metric(real, settings.kid_subsets, subset)
        self._hits = self._count = 0

    def reset(self) -> None:
        """Forgets the drawn images."""
        self._fid.reset()
        self._kid.reset()
        self._hits = self._count = 0

    def update(self, rows: slice, images: torch.Tensor, prompts: Sequence[str]) -> None:
        """Adds the drawn images (uint8 [B, 3, H, W]) of those rows.

        Raises:
            QsdError: a feature is not finite.
        """
        features, logits = self._features(images)
        check_finite(features, "features of the images", prompts)
        self._fid.update(features.cpu(), real=False)
        self._kid.update(features.cpu(), real=False)
        if self._classes is not None and logits is not None:
            self._hits += int((logits.argmax(1).cpu() == self._classes[rows]).sum())
            self._count += len(images)

    def labels(self) -> dict[str, float]:
        """``fid``, ``kid`` and, where classes are known, ``agreement``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the subsets of KID are the same for every config
            kid = float(self._kid.compute()[0])
        labels = {"fid": float(self._fid.compute()), "kid": kid}
        return labels if self._classes is None else labels | {"agreement": self._hits / self._count}


def frechet_metric(real: torch.Tensor) -> FrechetInceptionDistance:
    """FID to real images whose features [N, F] are ready; it is updated with ready features, too."""
    metric = FrechetInceptionDistance(feature=_ready(real), reset_real_features=False)
    for part in real.split(_PART):  # it is summed up in double precision
        metric.update(part, real=True)
    return metric


def _kernel_metric(real: torch.Tensor, subsets: int, subset_size: int) -> KernelInceptionDistance:
    """KID, likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # KID keeps all features; that is intended
        metric = KernelInceptionDistance(
            feature=_ready(real),
            subsets=subsets,
            subset_size=subset_size,
            reset_real_features=False,
        )
    metric.update(real, real=True)
    return metric


def _ready(features: torch.Tensor) -> nn.Module:
    """An extractor for what is extracted already, so that one extraction serves several metrics."""
    extractor = nn.Identity()
    extractor.num_features = features.shape[1]  # type: ignore[assignment]
    return extractor
