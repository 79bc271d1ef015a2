"""The miniatures' data: the 1,797 handwritten 8x8 digits that ship inside scikit-learn, with captions.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (1998), CC BY 4.0; scikit-learn ships its test part.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from qsd.support.errors import QsdError
from qsd.zoo.captions import Attributes, caption, measure

IMAGE_SIZE = 16
KEEP_ATTRIBUTE = 0.75
"""Probability that a measured attribute stands in a caption, in training and in the prompts."""

_SPLIT_SEED = 20
_PROMPT_SEED = 21


@dataclass(frozen=True)
class Digits:
    """All digits in the order of scikit-learn.

    Attributes:
        grey: uint8 [N, 1, 16, 16], ink is bright.
        classes: int64 [N], 0 to 9.
        attributes: measured stroke weight and slant per image.
        held_out: bool [N], the fifth that the classifier and CLIP never train on.
    """

    grey: torch.Tensor
    classes: torch.Tensor
    attributes: list[Attributes]
    held_out: torch.Tensor

    @property
    def rgb(self) -> torch.Tensor:
        """uint8 [N, 3, 16, 16], the grey value in every channel."""
        return self.grey.expand(-1, 3, -1, -1)


def load_digits() -> Digits:
    """Reads, upsamples (bicubic, clipped) and measures the digits; always the same values.

    Raises:
        QsdError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_raw
    except ImportError as error:
        raise QsdError(
            "the digits ship inside scikit-learn, which is missing; `pip install qsd[zoo]`"
        ) from error
    raw = load_raw()
    grey = torch.from_numpy(np.stack([_upsampled(image) for image in raw.images]))[:, None]
    classes = torch.from_numpy(raw.target.astype(np.int64))
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(classes))
    held_out = torch.zeros(len(classes), dtype=torch.bool)
    held_out[torch.from_numpy(order[: len(order) // 5])] = True
    return Digits(grey, classes, measure(grey[:, 0].numpy(), classes.numpy()), held_out)


def prompts(digits: Digits) -> tuple[list[str], list[int]]:
    """One prompt per real digit and its class, in an order whose every prefix has the real proportions.

    Attributes are left out as often as in training.
    """
    rng = np.random.default_rng(_PROMPT_SEED)
    groups: dict[tuple[int, Attributes], list[int]] = {}
    for index, key in enumerate(zip(digits.classes.tolist(), digits.attributes, strict=True)):
        groups.setdefault(key, []).append(index)
    position = np.empty(len(digits.classes))
    for members in groups.values():
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(position, kind="stable")
    classes = digits.classes[torch.from_numpy(order)].tolist()
    texts = []
    for index, digit in zip(order, classes, strict=True):
        keep_weight, keep_slant = rng.random(2) < KEEP_ATTRIBUTE
        texts.append(caption(digit, digits.attributes[index].kept(keep_weight, keep_slant)))
    return texts, classes


def write_data(out: Path) -> dict[str, int]:
    """Writes what measuring needs, so that it needs no scikit-learn.

    Files: ``images.safetensors`` (key ``images``, uint8 [N, 1, 16, 16], scikit-learn's order),
    ``prompts.txt`` (one caption per line), ``classes.txt`` (the digit each prompt asks for),
    ``class_prompts.txt`` (the same digits as captions without attributes, for class-conditional denoisers).

    Returns:
        Number of images, prompts and held-out images.
    """
    digits = load_digits()
    texts, classes = prompts(digits)
    out.mkdir(parents=True, exist_ok=True)
    save_file({"images": digits.grey.contiguous()}, out / "images.safetensors")
    (out / "prompts.txt").write_text("".join(f"{text}\n" for text in texts))
    (out / "classes.txt").write_text("".join(f"{digit}\n" for digit in classes))
    plain = (caption(digit, Attributes()) for digit in classes)
    (out / "class_prompts.txt").write_text("".join(f"{text}\n" for text in plain))
    return {
        "images": len(digits.grey),
        "prompts": len(texts),
        "held_out": int(digits.held_out.sum()),
    }


def _upsampled(image: np.ndarray) -> np.ndarray:
    """An 8x8 image of 0 to 16 as uint8 16x16; Pillow's fixed-point bicubic is the same on every machine."""
    pixels = np.round(image * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
