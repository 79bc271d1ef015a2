"""Reads ``datasets/emoji``: pictures of 32x32 pixels with captions such as ``fox face, 3d``."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from qsd.support.paths import find

IMAGE_SIZE = 32
STYLES = ("3d", "flat")
"""Fluent Emoji and Noto Emoji."""
DRAWN = ("Smileys & Emotion", "Animals & Nature", "Food & Drink")
"""The categories that the denoisers draw."""
CATEGORIES = (*DRAWN, "Activities", "Travel & Places", "Objects", "People & Body")
FILES = ("images", "held_out", "more")
"""What the denoisers are trained on; the same categories, seen by nothing in training; other categories."""
CLASSES = tuple(f"{category}, {style}" for category in CATEGORIES for style in STYLES)
"""What the classifier tells apart."""

_FOLDER = "datasets/emoji"
_COLUMNS = ("code", "name", "style", "category", "held_out", "file")


@dataclasses.dataclass(frozen=True)
class Emoji:
    """A picture.

    Attributes:
        code: code points in hexadecimal, joined by hyphens.
        name: a few words in lower case.
        style: one of :data:`STYLES`.
        category: one of :data:`CATEGORIES`.
        held_out: no training sees this code point, in either style.
        file: one of :data:`FILES`; its rows are in the order of the index.
    """

    code: str
    name: str
    style: str
    category: str
    held_out: bool
    file: str


def caption(emoji: Emoji) -> str:
    """For example ``fox face, 3d``."""
    return f"{emoji.name}, {emoji.style}"


def class_of(emoji: Emoji) -> int:
    """Position of its category and style in :data:`CLASSES`."""
    return CLASSES.index(f"{emoji.category}, {emoji.style}")


@dataclasses.dataclass(frozen=True)
class EmojiData:
    """Pictures and what they show.

    Attributes:
        images: uint8 [N, 3, 32, 32].
        emoji: N entries.
    """

    images: torch.Tensor
    emoji: list[Emoji]

    def __len__(self) -> int:
        return len(self.emoji)

    @property
    def captions(self) -> list[str]:
        """N captions."""
        return [caption(entry) for entry in self.emoji]

    @property
    def classes(self) -> torch.Tensor:
        """int64 [N], positions in :data:`CLASSES`."""
        return torch.tensor([class_of(entry) for entry in self.emoji])

    @property
    def held_out(self) -> torch.Tensor:
        """bool [N]."""
        return torch.tensor([entry.held_out for entry in self.emoji])

    def where(self, rows: torch.Tensor) -> "EmojiData":
        """The rows of a bool [N]."""
        return EmojiData(
            self.images[rows], [entry for entry, kept in zip(self.emoji, rows, strict=True) if kept]
        )


def load_emoji(files: Sequence[str] = FILES) -> EmojiData:
    """Reads the shipped pictures.

    Args:
        files: some of :data:`FILES`; their rows follow one another.

    Raises:
        QsdError: the data are not there.
    """
    index = read_index(find(f"{_FOLDER}/index.csv"))
    images = [load_file(find(f"{_FOLDER}/{file}.safetensors"))["images"] for file in files]
    return EmojiData(torch.cat(images), [entry for file in files for entry in index if entry.file == file])


def vocabulary() -> tuple[str, ...]:
    """Every word of the captions of all pictures, sorted; held-out ones too, so that any can be asked for."""
    words = {word for entry in read_index(find(f"{_FOLDER}/index.csv")) for word in entry.name.split()}
    return tuple(sorted(words))


def write_index(emoji: Sequence[Emoji], path: Path) -> None:
    """Writes one line a picture."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(dataclasses.astuple(entry) for entry in emoji)


def read_index(path: Path) -> list[Emoji]:
    """Reads what :func:`write_index` wrote."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [Emoji(**(row | {"held_out": row["held_out"] == "True"})) for row in csv.DictReader(stream)]
