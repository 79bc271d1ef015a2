"""How good a miniature is at full precision: FID against real digits, and whether it draws what is asked."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import ResNetForImageClassification

from qsd.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.classifier import FEATURES, classify
from qsd.zoo.digits import IMAGE_SIZE, Digits, prompts

STEPS = 20
_BATCH = 100

DrawBatch = Callable[[list[str], torch.Tensor], torch.Tensor]
"""Prompts and initial noise float32 [B, C, H, W] to images, uint8 [B, 3, 16, 16]."""


class PooledFeatures(nn.Module):
    """The classifier's pooled features in the form that torchmetrics takes."""

    num_features = FEATURES

    def __init__(self, classifier: ResNetForImageClassification) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features before the last linear layer, uint8 [N, 3, 16, 16] to float32 [N, 64]."""
        return self.classifier.resnet(to_pixels(images)).pooler_output.flatten(1)


def frechet_distance(
    classifier: ResNetForImageClassification, real: torch.Tensor, other: torch.Tensor
) -> float:
    """FID of two sets of images, uint8 [N, 3, 16, 16], on the classifier's features."""
    metric = FrechetInceptionDistance(PooledFeatures(classifier), input_img_size=(3, IMAGE_SIZE, IMAGE_SIZE))
    metric.eval()
    with torch.no_grad():
        for images, is_real in ((real, True), (other, False)):
            for part in images.split(256):
                metric.update(part, real=is_real)
    return metric.compute().item()


def real_half_distance(classifier: ResNetForImageClassification, digits: Digits, splits: int = 5) -> float:
    """Mean FID of a random half of the real digits against the other half."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(splits):
        order = torch.randperm(len(digits.classes), generator=generator)
        first, second = digits.rgb[order[: len(order) // 2]], digits.rgb[order[len(order) // 2 :]]
        total += frechet_distance(classifier, first, second)
    return total / splits


def measure_quality(
    draw: DrawBatch,
    latent_shape: tuple[int, int, int],
    classifier: ResNetForImageClassification,
    digits: Digits,
    *,
    num_images: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Draws the first prompts from noise of its own per image and compares with all real digits.

    Returns:
        ``fid``, ``real_half_fid``, ``agreement`` (share of images that the classifier takes for the
        digit asked for) and ``drawing_seconds``.
    """
    texts, classes = prompts(digits)
    started = time.perf_counter()
    images = []
    for first in range(0, num_images, _BATCH):
        rows = range(first, min(first + _BATCH, num_images))
        noise = torch.stack([image_noise(latent_shape, seed, row) for row in rows])
        images.append(draw([texts[row] for row in rows], noise))
        if progress:
            progress(rows.stop, num_images, "drawing")
    seconds = time.perf_counter() - started
    drawn = torch.cat(images)
    seen = classify(classifier, to_pixels(drawn))
    return {
        "fid": frechet_distance(classifier, digits.rgb, drawn),
        "real_half_fid": real_half_distance(classifier, digits),
        "agreement": (seen == torch.tensor(classes[:num_images])).float().mean().item(),
        "drawing_seconds": seconds,
    }


def image_noise(shape: tuple[int, int, int], seed: int, index: int) -> torch.Tensor:
    """Initial noise of one image, float32, the same in whatever batch it is drawn."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + index))


def draw_with(pipeline: Any, **settings: Any) -> DrawBatch:
    """Drawing with a stock text-to-image pipeline of diffusers, unguided, in 20 steps."""
    pipeline.set_progress_bar_config(disable=True)

    def draw(texts: list[str], noise: torch.Tensor) -> torch.Tensor:
        images = pipeline(
            texts,
            latents=noise,
            guidance_scale=1.0,
            num_inference_steps=STEPS,
            output_type="pt",
            **settings,
        ).images
        return images.clamp(0, 1).mul(255).round().to(torch.uint8)

    return draw
