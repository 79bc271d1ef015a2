"""Captions `a [thin|bold] DIGIT [slanted left|upright|slanted right]` and the measurements behind them."""

from dataclasses import dataclass

import numpy as np

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEIGHTS = ("thin", "bold")
SLANTS = ("slanted left", "upright", "slanted right")
VOCABULARY = ("a", *DIGIT_WORDS, *WEIGHTS, "slanted", "left", "upright", "right")
"""Every word a caption can hold."""

_THIN_BELOW, _BOLD_ABOVE = 0.33, 0.67
_LEFT_BELOW, _UPRIGHT_BETWEEN, _RIGHT_ABOVE = 0.25, (0.35, 0.65), 0.75


@dataclass(frozen=True)
class Attributes:
    """What a caption says beside the digit; None where the measurement is unclear or left out."""

    weight: str | None = None
    slant: str | None = None

    def kept(self, weight: bool, slant: bool) -> "Attributes":
        """The same with attributes left out where the flag is false."""
        return Attributes(self.weight if weight else None, self.slant if slant else None)


def caption(digit: int, attributes: Attributes) -> str:
    """For example ``a bold seven slanted right``, or ``a seven`` without attributes."""
    words = ("a", attributes.weight, DIGIT_WORDS[digit], attributes.slant)
    return " ".join(word for word in words if word)


def parse(text: str) -> tuple[int, Attributes]:
    """Digit and attributes of a caption.

    Raises:
        ValueError: the text is no caption.
    """
    for digit in range(10):
        for weight in (None, *WEIGHTS):
            for slant in (None, *SLANTS):
                if caption(digit, Attributes(weight, slant)) == text:
                    return digit, Attributes(weight, slant)
    raise ValueError(
        f"{text!r} is not of the form 'a [thin|bold] DIGIT [slanted left|upright|slanted right]'"
    )


def all_captions() -> list[str]:
    """Every caption there is, 120 of them."""
    return [
        caption(digit, Attributes(weight, slant))
        for digit in range(10)
        for weight in (None, *WEIGHTS)
        for slant in (None, *SLANTS)
    ]


def measure(images: np.ndarray, classes: np.ndarray) -> list[Attributes]:
    """Stroke weight and slant by their rank among the images of the same digit.

    Args:
        images: uint8 [N, H, W], ink is bright.
        classes: int64 [N].
    """
    weight = _rank_within_class(stroke_weight(images), classes)
    slant = _rank_within_class(stroke_slant(images), classes)
    return [Attributes(_weight_word(w), _slant_word(s)) for w, s in zip(weight, slant, strict=True)]


def stroke_weight(images: np.ndarray) -> np.ndarray:
    """Mean stroke width in pixels, float64 [N]: ink area over half the length of its outline."""
    ink = images / 255.0
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    down, right = np.diff(padded, axis=1)[:, :, :-1], np.diff(padded, axis=2)[:, :-1]
    return 2 * ink.sum(axis=(1, 2)) / np.hypot(down, right).sum(axis=(1, 2))


def stroke_slant(images: np.ndarray) -> np.ndarray:
    """Shear of the ink from second-order moments, float64 [N]; positive leans to the right."""
    ink = images / images.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]].astype(np.float64)
    y = y - (ink * y).sum(axis=(1, 2), keepdims=True)
    x = x - (ink * x).sum(axis=(1, 2), keepdims=True)
    return -(ink * x * y).sum(axis=(1, 2)) / (ink * y * y).sum(axis=(1, 2))


def _rank_within_class(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values))
    for digit in np.unique(classes):
        members = np.flatnonzero(classes == digit)
        order = np.argsort(np.argsort(values[members], kind="stable"), kind="stable")
        ranks[members] = (order + 0.5) / len(members)
    return ranks


def _weight_word(rank: float) -> str | None:
    if rank < _THIN_BELOW:
        return "thin"
    return "bold" if rank > _BOLD_ABOVE else None


def _slant_word(rank: float) -> str | None:
    if rank < _LEFT_BELOW:
        return "slanted left"
    if rank > _RIGHT_ABOVE:
        return "slanted right"
    return "upright" if _UPRIGHT_BETWEEN[0] < rank < _UPRIGHT_BETWEEN[1] else None
