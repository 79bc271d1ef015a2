"""Text encoders that are loaded when something is to be encoded, and dropped afterwards."""

import dataclasses
import gc
import importlib
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from qsd.support.errors import QsdError, first_line
from qsd.support.quiet import quiet

ENCODED_ONCE = (
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "WanPipeline",
    "HunyuanDiTPipeline",
)
"""Pipelines that draw from encoded prompts without their text encoders."""


@dataclasses.dataclass(frozen=True)
class Withheld:
    """Text encoders that a pipeline was opened without.

    Attributes:
        folder: of the pipeline.
        names: of the components.
        dtype: of their weights.
        variant: part of the names of their files.
    """

    folder: Path
    names: tuple[str, ...]
    dtype: torch.dtype
    variant: str | None


_withheld: weakref.WeakKeyDictionary[Any, Withheld] = weakref.WeakKeyDictionary()


def is_encoded_text(names: Collection[str]) -> bool:
    """Whether arguments of a pipeline's call say its prompt, encoded already."""
    return any("prompt_embeds" in name and not name.startswith("negative") for name in names)


def text_encoders(folder: str | Path) -> tuple[str, ...]:
    """Names of the text encoders that a local pipeline folder can be opened without."""
    if not Path(folder).is_dir():
        return ()
    index = DiffusionPipeline.load_config(str(folder))
    if index.get("_class_name") not in ENCODED_ONCE:
        return ()
    return tuple(
        name
        for name, entry in index.items()
        if name.startswith("text_encoder") and isinstance(entry, list | tuple) and entry[0] == "transformers"
    )


def withhold(
    pipe: Any, folder: Path, names: tuple[str, ...], dtype: torch.dtype, variant: str | None
) -> None:
    """Notes what a pipeline was opened without."""
    _withheld[pipe] = Withheld(folder, names, dtype, variant)


def withheld(pipe: Any) -> Withheld | None:
    """What a pipeline was opened without, if anything."""
    return _withheld.get(pipe)


def attach(pipe: Any) -> None:
    """Loads the text encoders that a pipeline lacks into it.

    Raises:
        QsdError: they cannot be loaded.
    """
    missing = withheld(pipe)
    if missing is None:
        return
    index = DiffusionPipeline.load_config(str(missing.folder))
    for name in missing.names:
        if getattr(pipe, name, None) is not None:
            continue
        library, class_name = index[name]
        cls: Any = getattr(importlib.import_module(library), class_name)
        try:
            with quiet():
                module = cls.from_pretrained(
                    str(missing.folder / name), dtype=missing.dtype, variant=missing.variant
                )
        except Exception as error:
            raise QsdError(f"{missing.folder / name}: cannot be opened ({first_line(error)})") from error
        setattr(pipe, name, module.eval().requires_grad_(False).to(pipe.device))


def detach(pipe: Any) -> None:
    """Drops the text encoders that a pipeline was opened without."""
    missing = withheld(pipe)
    if missing is None:
        return
    for name in missing.names:
        setattr(pipe, name, None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def attached(pipe: Any) -> Iterator[None]:
    """Inside, the pipeline has its text encoders."""
    attach(pipe)
    try:
        yield
    finally:
        detach(pipe)
