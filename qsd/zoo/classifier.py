"""The digit classifier whose pooled features serve FID and KID: a tiny stock ResNet of transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.captions import DIGIT_WORDS
from qsd.zoo.digits import load_digits
from qsd.zoo.folders import write_folder, write_image_processor
from qsd.zoo.optimization import Batch, fit

FEATURES = 64
_BATCH = 128
_SHIFT = 1


def build_classifier(names: Sequence[str] = DIGIT_WORDS, depth: int = 1) -> ResNetForImageClassification:
    """An untrained classifier of images in [-1, 1], of so many blocks a stage; it has 64 pooled features."""
    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=3,
            embedding_size=32,
            hidden_sizes=[32, FEATURES],
            depths=[depth, depth],
            layer_type="basic",
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )


def train_classifier(
    out: Path,
    *,
    seed: int = 0,
    device: torch.device,
    progress: Progress | None = None,
    steps: int = 1500,
) -> dict[str, float]:
    """Trains on four fifths of the digits, shifted by up to a pixel, and writes the folder.

    Returns:
        ``loss``, ``train_accuracy``, ``held_out_accuracy``, ``bytes``.
    """
    digits = load_digits()
    images, classes = to_pixels(digits.rgb).to(device), digits.classes.to(device)
    train = torch.nonzero(~digits.held_out)[:, 0].to(device)
    torch.manual_seed(seed)
    with device:
        model = build_classifier()

    def draw() -> Batch:
        rows = train[torch.randint(len(train), (_BATCH,))]
        return shifted(images[rows]), classes[rows]

    final = fit_classifier(model, draw, steps=steps, progress=progress)
    right = classify(model, images) == classes
    facts = {
        "loss": final,
        "train_accuracy": right[train].float().mean().item(),
        "held_out_accuracy": right[digits.held_out.to(device)].float().mean().item(),
    }
    return facts | {"bytes": write_folder(out, lambda folder: _save(model, folder))}


def fit_classifier(model: ResNetForImageClassification, draw: Callable[[], Batch], **settings: Any) -> float:
    """Trains on drawn (images, classes); settings and result as of :func:`qsd.zoo.optimization.fit`."""

    def loss(pixels: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(pixels).logits, truth, label_smoothing=0.05)

    final = fit(model.parameters(), draw, loss, learning_rate=3e-3, message="classifier", **settings)
    model.eval()
    return final


@torch.no_grad()
def classify(model: ResNetForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """Most probable digit, int64 [N], of images in [-1, 1]."""
    return torch.cat([model(part).logits.argmax(1) for part in images.split(256)])


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The batch moved by at most one pixel each way, padded with paper."""
    down, right = torch.randint(2 * _SHIFT + 1, (2,)).tolist()
    return moved(images, _SHIFT, down, right, paper=-1.0)


def moved(images: torch.Tensor, shift: int, down: int, right: int, *, paper: float) -> torch.Tensor:
    """The window at (down, right), each at most twice the shift, of images padded by the shift."""
    padded = nn.functional.pad(images, (shift,) * 4, value=paper)
    size = images.shape[-1]
    return padded[..., down : down + size, right : right + size]


def _save(model: ResNetForImageClassification, folder: Path) -> None:
    model.save_pretrained(folder)
    write_image_processor(folder, "ViTImageProcessor")
