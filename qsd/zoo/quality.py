"""How good a miniature is at full precision: FID against real pictures, and whether it obeys its prompts."""

import time
from typing import Any

import torch

from qsd.evaluation import EvaluationSettings, Evaluator
from qsd.evaluation.distribution import frechet_metric
from qsd.evaluation.extractors import load_features


def measure_quality(pipe: Any, settings: EvaluationSettings, *, seed: int = 0) -> dict[str, float]:
    """Draws with a pipeline's weights as they are and compares with the reference images.

    Args:
        pipe: a pipeline of the zoo.
        settings: with prompts, classes, reference and features.
        seed: of the noise.

    Returns:
        ``fid``, ``real_half_fid``, ``agreement`` (share of images that the classifier takes for the
        class asked for), ``clip``, ``kid`` and ``drawing_seconds``.
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
    features = torch.cat([extract(batch)[0] for batch in settings.open_reference().batches(256)])
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(splits):
        order = torch.randperm(len(features), generator=generator)
        first, second = order.split([len(order) // 2, len(order) - len(order) // 2])
        metric = frechet_metric(features[first])
        metric.update(features[second], real=False)
        total += float(metric.compute())
    return total / splits
