"""How good a miniature is at full precision: FID against real digits, and whether it draws what is asked."""

import time
from typing import Any

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from qsd.labels import EvaluationSettings, Evaluator
from qsd.labels.extractors import load_features


def measure_quality(pipe: Any, settings: EvaluationSettings, *, seed: int = 0) -> dict[str, float]:
    """Draws with a pipeline's weights as they are and compares with the reference images.

    Args:
        pipe: a pipeline of digits.
        settings: with prompts, classes, reference and features.
        seed: of the noise.

    Returns:
        ``fid``, ``real_half_fid``, ``agreement`` (share of images that the classifier takes for the
        digit asked for), ``clip``, ``kid`` and ``drawing_seconds``.
    """
    evaluator = Evaluator(pipe, settings)
    started = time.perf_counter()
    labels = evaluator.full_precision(seed).labels
    seconds = time.perf_counter() - started
    kept = {name: labels[name] for name in ("fid", "agreement", "kid", "clip") if name in labels}
    return kept | {"real_half_fid": real_half_distance(settings), "drawing_seconds": seconds}


@torch.inference_mode()
def real_half_distance(settings: EvaluationSettings, splits: int = 5) -> float:
    """Mean FID of a random half of the reference images against the other half."""
    extract = load_features(settings.features)
    features = torch.cat([extract(batch)[0] for batch in settings.load_reference().split(256)])
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(splits):
        order = torch.randperm(len(features), generator=generator)
        total += _frechet_distance(features[order[: len(order) // 2]], features[order[len(order) // 2 :]])
    return total / splits


def _frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    identity = nn.Identity()
    identity.num_features = first.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(first, real=True)
    metric.update(second, real=False)
    return float(metric.compute())
