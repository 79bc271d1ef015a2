"""YAML files that build on others: ``base: ranker.yaml`` in a file names what it adds to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find

_MOST_BASES = 8


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
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise QsdError(f"{path}: cannot be read as YAML ({first_line(error)}); check the file") from error
    if not isinstance(document, dict) or not document:
        raise QsdError(f"{path}: not a YAML mapping of settings; see the shipped lightning_configs")
    return document


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        kept = merged.get(key)
        merged[key] = (
            _over(kept, value) if isinstance(kept, Mapping) and isinstance(value, Mapping) else value
        )
    return merged
