"""Writes ``datasets/emoji`` from the two npm archives that hold the pictures.

Sources: ``@lobehub/fluent-emoji-3d`` (Fluent Emoji by Microsoft, MIT) and ``emoji-datasource-google`` (Noto
Emoji by Google, Apache-2.0; names and categories by Cal Henderson, MIT). ``npm pack NAME`` fetches either.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from qsd.support.errors import QsdError, first_line
from qsd.zoo.emoji.dataset import (
    CATEGORIES,
    DRAWN,
    FILES,
    IMAGE_SIZE,
    STYLES,
    Emoji,
    caption,
    class_of,
    write_index,
)
from qsd.zoo.emoji.videos import MOTIONS

_NAMES = "package/emoji.json"
_FOLDERS = {"3d": ("package/assets/", ".webp"), "flat": ("package/img/google/64/", ".png")}
_JOINER = "-200d-"  # joins a person with a gender, a role or a hair style: variants of what is kept
_LONGEST_NAME = 4
_HELD_OUT = 0.1
_SPLIT_SEED, _PROMPT_SEED = 30, 31
_NUM_PROMPTS = 2000


def write_data(fluent: Path, google: Path, out: Path) -> dict[str, int]:
    """Writes images, index and prompts.

    Files: ``images.safetensors``, ``held_out.safetensors`` and ``more.safetensors`` (key ``images``, uint8
    [N, 3, 32, 32], on white), ``index.csv`` (one line an image), ``prompts.txt``,
    ``video_prompts.txt`` (the same with a motion each), ``classes.txt``.

    Args:
        fluent: the archive of ``@lobehub/fluent-emoji-3d``.
        google: the archive of ``emoji-datasource-google``.
        out: folder to write.

    Returns:
        Number of images by file, and of prompts.

    Raises:
        QsdError: an archive is missing, is no npm archive, or lacks what is read.
    """
    names = json.loads(_members(google, _NAMES, "")[_NAMES])
    pictures = {
        style: _members(archive, *_FOLDERS[style])
        for style, archive in zip(STYLES, (fluent, google), strict=True)
    }
    emoji = _chosen(names, pictures)
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for file in FILES:
        rows = [entry for entry in emoji if entry.file == file]
        pixels = [np.empty((0, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)]
        pixels += [_picture(pictures[entry.style], entry)[None] for entry in rows]
        save_file({"images": torch.from_numpy(np.concatenate(pixels))}, out / f"{file}.safetensors")
        counts[file] = len(rows)
    write_index(emoji, out / "index.csv")
    prompts = _prompts([entry for entry in emoji if entry.file == "images"])
    (out / "prompts.txt").write_text("".join(f"{caption(entry)}\n" for entry in prompts))
    videos = [f"{caption(entry)}, {MOTIONS[row % len(MOTIONS)]}\n" for row, entry in enumerate(prompts)]
    (out / "video_prompts.txt").write_text("".join(videos))
    (out / "classes.txt").write_text("".join(f"{class_of(entry)}\n" for entry in prompts))
    return counts | {"prompts": len(prompts)}


def _members(archive: Path, prefix: str, suffix: str) -> dict[str, bytes]:
    """Content by name of the members of an npm archive."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            found = {
                member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar
                if member.isfile() and member.name.startswith(prefix) and member.name.endswith(suffix)
            }
    except (OSError, tarfile.TarError) as error:
        raise QsdError(
            f"{archive}: no npm archive ({first_line(error)}); fetch it with `npm pack`"
        ) from error
    if not found:
        raise QsdError(
            f"{archive}: holds no {prefix}*{suffix}; the first archive is @lobehub/fluent-emoji-3d, "
            "the second emoji-datasource-google"
        )
    return found


def _chosen(names: list[dict[str, Any]], pictures: Mapping[str, Mapping[str, bytes]]) -> list[Emoji]:
    """One entry per emoji and style, in the order of code points; both styles or none."""
    kept = [
        entry
        for entry in sorted(names, key=lambda entry: entry["unified"])
        if entry["category"] in CATEGORIES
        and _JOINER not in entry["unified"].lower()
        and all(_member(style, entry["unified"]) in pictures[style] for style in STYLES)
    ]
    held_out = set(_held_out(len(kept)))
    chosen = []
    for place, entry in enumerate(kept):
        file = "more" if entry["category"] not in DRAWN else "images"
        is_held_out = place in held_out
        if is_held_out and file == "images":
            file = "held_out"
        for style in STYLES:
            chosen.append(
                Emoji(
                    code=entry["unified"].lower(),
                    name=_name(entry),
                    style=style,
                    category=entry["category"],
                    held_out=is_held_out,
                    file=file,
                )
            )
    return chosen


def _held_out(count: int) -> list[int]:
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    return order[: round(_HELD_OUT * count)].tolist()


def _name(entry: Mapping[str, Any]) -> str:
    """The Unicode name where it is short, otherwise the short name; words of letters and digits."""
    words = entry["name"].lower().replace("-", " ").split()
    if not words or len(words) > _LONGEST_NAME:
        words = entry["short_name"].replace("_", " ").replace("-", " ").split()
    return " ".join("".join(letter for letter in word if letter.isalnum()) for word in words)


def _member(style: str, code: str) -> str:
    prefix, suffix = _FOLDERS[style]
    return f"{prefix}{code.lower()}{suffix}"


def _picture(pictures: Mapping[str, bytes], emoji: Emoji) -> np.ndarray:
    """uint8 [3, 32, 32]: on white, then means over equal squares, the same on every machine."""
    image = Image.open(io.BytesIO(pictures[_member(emoji.style, emoji.code)])).convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    small = paper.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def _prompts(emoji: list[Emoji]) -> list[Emoji]:
    """So many draws that every emoji comes equally often, each round in a new order."""
    rng = np.random.default_rng(_PROMPT_SEED)
    rounds = -(-_NUM_PROMPTS // len(emoji))
    order = np.concatenate([rng.permutation(len(emoji)) for _ in range(rounds)])[:_NUM_PROMPTS]
    return [emoji[index] for index in order]
