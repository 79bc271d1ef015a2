"""Folders of exports: replaced as a whole, and free of paths of the machine that wrote them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsd.export.card import CARD_NAME
from qsd.runtime.manifest import Method
from qsd.support.documents import parse_json, read_bounded
from qsd.support.errors import QsdError
from qsd.support.folders import replacing

CONFIG_NAME = "config.json"
INDEX_NAME = "model_index.json"
RECIPE_NAME = "recipe.json"
RECIPE_FORMAT = "qsd-recipe"


@contextlib.contextmanager
def replacing_export(out: Path) -> Iterator[Path]:
    """Yields a new folder that takes the place of ``out`` in one step when the block ends without an error.

    Raises:
        QsdError: ``out`` is a file, or a folder with content that no export wrote.
    """
    check_replaceable(out)
    with replacing(out) as folder:
        yield folder


def check_replaceable(out: Path) -> None:
    """Refuses to overwrite what is not an earlier export.

    Raises:
        QsdError: ``out`` is a file, or a folder with content that no export wrote.
    """
    if out.is_file():
        raise QsdError(f"{out}: is a file; name a new folder to export to")
    if not out.is_dir() or not any(out.iterdir()):
        return
    denoisers = sorted(entry.name for entry in out.iterdir() if is_export(entry) or is_recipe(entry))
    known = {INDEX_NAME, CARD_NAME, *denoisers, *(_read(out / INDEX_NAME) or {})}
    strange = sorted(entry.name for entry in out.iterdir() if entry.name not in known)
    if not denoisers or strange:
        what = f"holds '{strange[0]}'" if strange else "is not empty"
        raise QsdError(f"{out}: {what} and is no earlier export; name a new or empty folder")


def is_export(folder: Path) -> bool:
    """Whether a folder holds a denoiser exported by qsd, of whatever version."""
    config = _read(folder / CONFIG_NAME) or {}
    entry = config.get("quantization_config")
    return isinstance(entry, dict) and entry.get("quant_method") == Method.QSD.value


def is_recipe(folder: Path) -> bool:
    """Whether a folder holds a recipe, which exports in other formats carry too."""
    return (_read(folder / RECIPE_NAME) or {}).get("format") == RECIPE_FORMAT


def exports_in(folder: Path) -> list[str]:
    """Names of the folders in a folder that hold a denoiser exported by qsd."""
    return sorted(entry.name for entry in folder.iterdir() if is_export(entry)) if folder.is_dir() else []


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes JSON in the layout of diffusers' own files."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def strip_paths(folder: Path) -> None:
    """Removes from the configuration files below a folder where their components were loaded from."""
    for path in [*folder.rglob("*config.json"), *folder.glob(INDEX_NAME)]:
        document = _read(path)
        if document is not None:
            write_json(path, without_paths(document))


def without_paths(value: Any) -> Any:
    """A JSON value without entries that name a source or hold an absolute path."""
    if isinstance(value, dict):
        return {
            key: without_paths(item)
            for key, item in value.items()
            if key not in ("_name_or_path", "name_or_path") and not _is_machine_path(item)
        }
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return value


def _is_machine_path(value: Any) -> bool:
    return (
        isinstance(value, str)
        and "\n" not in value
        and len(Path(value).parts) > 2
        and Path(value).is_absolute()
    )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none."""
    try:
        document = parse_json(read_bounded(path), path)
    except QsdError:
        return None
    return document if isinstance(document, dict) else None
