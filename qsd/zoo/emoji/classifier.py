"""The classifier of categories and styles whose pooled features serve FID and KID: a tiny stock ResNet."""

from pathlib import Path

import torch

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.classifier import build_classifier, classify, fit_classifier, moved
from qsd.zoo.emoji.dataset import CLASSES, IMAGE_SIZE, load_emoji
from qsd.zoo.folders import write_folder, write_image_processor
from qsd.zoo.optimization import Batch

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
        model = build_classifier(CLASSES, depth=2)

    def draw() -> Batch:
        rows = train[torch.randint(len(train), (_BATCH,))]
        return jittered(images[rows]), classes[rows]

    resume = out.with_name(f"{out.name}.training")
    final = fit_classifier(model, draw, steps=steps, weight_decay=0.05, resume=resume, progress=progress)
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
    down, right, mirror = torch.randint(2 * _SHIFT + 1, (3,)).tolist()
    window = moved(images, _SHIFT, down, right, paper=1.0)
    return window.flip(-1) if mirror > _SHIFT else window
