"""YAML files that build on others: ``base: ranker.yaml`` in a file names what it adds to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find

_MOST_BASES = 8
_MOST_BYTES, _MOST_ENTRIES, _MOST_LEVELS = 2**20, 100_000, 64


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping over its bases, nested key by nested key; the ``base`` key itself is left out.

    Raises:
        QsdError: a file is missing, no YAML mapping, or bases go round in a circle.
    """
    merged: dict[str, Any] = {}
    for file in with_bases(path):
        merged = _over(merged, _read(file))
    merged.pop("base", None)
    return merged


def with_bases(path: str | Path) -> list[Path]:
    """The file and the files that it builds on, the deepest base first.

    A base is looked up beside the file that names it, then as any other name
    (:func:`qsd.support.paths.find`).

    Raises:
        QsdError: as :func:`read_yaml`.
    """
    files = [Path(path)]
    while base := _read(files[0]).get("base"):
        if len(files) > _MOST_BASES or not isinstance(base, str):
            raise QsdError(
                f"{path}: `base` must lead to a file without one in {_MOST_BASES} steps; got {base!r}"
            )
        beside = files[0].parent / base
        files.insert(0, beside if beside.is_file() else find(base))
    return files


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES} bytes")
        document = yaml.safe_load(content.decode("utf-8-sig"))
        _check_bounded(document)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise QsdError(f"{path}: cannot be read as YAML ({first_line(error)}); check the file") from error
    if not isinstance(document, dict) or not document:
        raise QsdError(f"{path}: not a YAML mapping of settings; see the shipped lightning_configs")
    return document


def _check_bounded(document: Any) -> None:
    """Refuses what grows out of bounds when its aliases (``*name``) are written out.

    Raises:
        ValueError: it has too many entries, or is nested too deeply.
    """
    level, count = [document], 0
    for _ in range(_MOST_LEVELS):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list | tuple | set):
                inner += value
            if count + len(inner) > _MOST_ENTRIES:
                raise ValueError(f"more than {_MOST_ENTRIES} entries")
        if not inner:
            return
        level, count = inner, count + len(inner)
    raise ValueError(f"nested deeper than {_MOST_LEVELS} levels")


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        kept = merged.get(key)
        merged[key] = (
            _over(kept, value) if isinstance(kept, Mapping) and isinstance(value, Mapping) else value
        )
    return merged
