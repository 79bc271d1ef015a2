"""The classifier of categories and styles whose pooled features serve FID and KID: a tiny stock ResNet."""

from pathlib import Path

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.classifier import FEATURES, classify
from qsd.zoo.emoji.dataset import CLASSES, IMAGE_SIZE, load_emoji
from qsd.zoo.folders import write_folder, write_image_processor
from qsd.zoo.optimization import Batch, fit

_BATCH = 64
_SHIFT = 2


def train_emoji_classifier(
    out: Path, *, seed: int = 0, device: torch.device, progress: Progress | None = None, steps: int = 1500
) -> dict[str, float]:
    """Trains on all pictures but the held-out ones, mirrored and moved at random, and writes the folder.

    Returns:
        ``loss``, ``train_accuracy``, ``held_out_accuracy``, ``held_out_style_accuracy``, ``bytes``.
    """
    emoji = load_emoji()
    images, classes = to_pixels(emoji.images).to(device), emoji.classes.to(device)
    held_out = emoji.held_out.to(device)
    train = torch.nonzero(~held_out)[:, 0]
    torch.manual_seed(seed)
    with device:
        model = _build_classifier()

    def draw() -> Batch:
        rows = train[torch.randint(len(train), (_BATCH,))]
        return jittered(images[rows]), classes[rows]

    def loss(pixels: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(pixels).logits, truth, label_smoothing=0.05)

    final = fit(
        model.parameters(),
        draw,
        loss,
        steps=steps,
        learning_rate=3e-3,
        weight_decay=0.05,
        resume=out.with_name(f"{out.name}.training"),
        progress=progress,
        message="classifier",
    )
    model.eval()
    found = classify(model, images)
    right, right_style = found == classes, found % 2 == classes % 2
    facts = {
        "loss": final,
        "train_accuracy": right[~held_out].float().mean().item(),
        "held_out_accuracy": right[held_out].float().mean().item(),
        "held_out_style_accuracy": right_style[held_out].float().mean().item(),
    }

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        write_image_processor(folder, "ViTImageProcessor", IMAGE_SIZE)

    return facts | {"bytes": write_folder(out, save)}


def jittered(images: torch.Tensor) -> torch.Tensor:
    """The batch mirrored or not, and moved by at most two pixels each way on white paper."""
    padded = nn.functional.pad(images, (_SHIFT,) * 4, value=1.0)
    down, right, mirror = torch.randint(2 * _SHIFT + 1, (3,)).tolist()
    size = images.shape[-1]
    moved = padded[..., down : down + size, right : right + size]
    return moved.flip(-1) if mirror > _SHIFT else moved


def _build_classifier() -> ResNetForImageClassification:
    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=3,
            embedding_size=32,
            hidden_sizes=[32, FEATURES],
            depths=[2, 2],
            layer_type="basic",
            id2label=dict(enumerate(CLASSES)),
            label2id={name: index for index, name in enumerate(CLASSES)},
        )
    )
