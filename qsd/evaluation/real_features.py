"""Features of real images: read a batch at a time, and kept on disk under a hash of what decides them."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qsd.evaluation.content import extractor_content
from qsd.evaluation.images import RealImages
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.errors import QsdError
from qsd.support.hashing import json_hash
from qsd.support.tensors import open_tensors, save_tensors
from qsd.support.user_cache import user_cache

_FORMAT = "qsd-reference-features"
_log = logging.getLogger(__name__)


def real_features(settings: EvaluationSettings, extractor: nn.Module, device: torch.device) -> torch.Tensor:
    """Features of a settings' real images, float32 [N, F] on the CPU.

    They are taken once for each content of images, extractor, kind of device and batch size (which may change
    last digits); files in the user's cache are checked against their hashes.

    Raises:
        QsdError: real images are missing, too few or damaged.
    """
    reference = settings.open_reference()
    facts = {
        "reference": reference.content_hash(),
        "features": extractor_content(settings.features, extractor),
        "device": device.type,
        "batch_size": settings.batch_size,
        "torch": torch.__version__,
    }
    path = user_cache() / "reference-features" / f"{json_hash(facts)}.safetensors"
    known = _read(path, len(reference))
    if known is not None:
        return known
    features = _computed(reference, extractor, settings.batch_size)
    _write(path, features, facts)
    return features


def _computed(reference: RealImages, extractor: nn.Module, batch_size: int) -> torch.Tensor:
    features, row = torch.empty(0), 0
    for batch in reference.batches(batch_size):
        some = extractor(batch)[0].cpu()
        if row == 0:
            features = some.new_empty(len(reference), some.shape[1])
        features[row : row + len(some)] = some
        row += len(some)
    return features


def _read(path: Path, count: int) -> torch.Tensor | None:
    if not path.exists():
        return None
    try:
        with open_tensors(path, {_FORMAT: 1}, "it is computed anew") as file:
            features = file.tensor("features")
    except QsdError as error:
        _log.warning("%s", error)
        return None
    return features if len(features) == count else None


def _write(path: Path, features: torch.Tensor, facts: dict[str, Any]) -> None:
    try:
        save_tensors(path, {"features": features}, {"format": _FORMAT, "version": 1, **facts})
    except OSError as error:  # it is only a cache
        _log.warning(
            "features of the real images are not kept: %s cannot be written (%s)", path, error.strerror
        )
