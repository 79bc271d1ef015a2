"""Which classes a settings file may name: a ``fit`` YAML builds what it names, so a shared one is code."""

import importlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qsd.support.errors import QsdError

MODULES = frozenset({"lightning", "pytorch_lightning", "qsd", "torch", "optuna_integration"})
_BUILDING = ("fit", "validate", "test", "predict", "tune")  # their parsers know classes by name alone, too
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_DATA = (".h5", ".ckpt", ".safetensors", ".csv", ".txt", ".yaml", ".yml", ".json", ".db")
_MOST_BYTES, _MOST_LEVELS, _MOST_FILES = 2**20, 64, 64


class _Found(NamedTuple):
    file: str
    key: str
    text: str


def check_classes(words: Sequence[str]) -> list[str]:
    """Refuses command lines and settings files that name classes outside the allowed modules.

    Looked through are all words, the files that they name, and the files that those name, before anything is
    imported or built. ``--allow MODULE`` allows one more module.

    Args:
        words: the command line, verb first.

    Returns:
        The words without ``--allow``.

    Raises:
        QsdError: a class of another module, or a file that cannot be looked through.
    """
    rest, allowed = _without_allow(words)
    building = rest[0] in _BUILDING
    for found in _texts_of_words(rest, building):
        _check(found, allowed, building)
    return rest


def _without_allow(words: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    rest: list[str] = []
    allowed = set(MODULES)
    remaining = iter(words)
    for word in remaining:
        name, equals, module = word.partition("=")
        if name != "--allow":
            rest.append(word)
            continue
        module = module if equals else next(remaining, "")
        if not module.replace(".", "_").isidentifier():
            raise QsdError(f"allow {module!r}: name a module, such as --allow my_callbacks")
        allowed.add(module)
    return rest, frozenset(allowed)


def _texts_of_words(words: Sequence[str], building: bool) -> Iterator[_Found]:
    key, seen = "", set[Path]()
    for word in words[1:]:
        value = word
        if word.startswith("-"):
            key, equals, value = word.partition("=")
            if not equals:
                continue
        place = key.lstrip("-").rstrip("+")
        try:
            document = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            document = value
        yield from _texts("the command line", place, document, building, seen)
        if document != value:
            yield from _texts("the command line", place, value, building, seen)


def _texts(
    file: str, key: str, value: Any, building: bool, seen: set[Path], levels: int = 0
) -> Iterator[_Found]:
    """All texts inside a value, those of the files that it names included."""
    if levels > _MOST_LEVELS:
        raise QsdError(f"{file}: {key} is nested deeper than {_MOST_LEVELS} levels; check the file")
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(file, str(name), inner, building, seen, levels + 1)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _texts(file, key, inner, building, seen, levels + 1)
    elif isinstance(value, str):
        yield _Found(file, key, value)
        for path in {Path(value), Path(file).parent / value} if len(value) < 4096 else set():
            yield from _texts_of_file(path, building, seen)


def _texts_of_file(path: Path, building: bool, seen: set[Path]) -> Iterator[_Found]:
    try:
        path = path.resolve()
        if path in seen or not path.is_file():
            return
        seen.add(path)
        with path.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except (OSError, ValueError):
        return  # no parser can read settings from it either
    if b"\0" in content or not (building or path.suffix in (".yaml", ".yml")):
        return  # a store, weights, an image, or a file of another verb's own
    if len(content) > _MOST_BYTES or len(seen) > _MOST_FILES:
        raise QsdError(f"{path}: too long to look through for the classes it names; shorten it")
    try:
        document = yaml.safe_load(content.decode("utf-8-sig"))
    except (ValueError, RecursionError, yaml.YAMLError):
        return
    if isinstance(document, dict | list):
        yield from _texts(str(path), "", document, building, seen)


def _check(found: _Found, allowed: frozenset[str], building: bool) -> None:
    names_class = found.key.rpartition(".")[2] == "class_path"
    if not names_class and not (building and _PATH.fullmatch(found.text)):
        return
    if "." not in found.text:  # short for a class that is imported already
        return
    module = found.text.partition(".")[0]
    if not names_class and (
        (module not in allowed and not _is_module(module)) or Path(found.text).suffix in _DATA
    ):
        return
    home = _home(found.text) if module in allowed else None
    if _is_allowed(found.text, allowed) and (home is None or _is_allowed(home, allowed)):
        return
    raise QsdError(
        f"{found.file}: {found.key or 'it'} names {found.text}, a class from outside "
        f"{', '.join(sorted(allowed))}; if you trust it, add --allow {(home or module).partition('.')[0]}"
    )


def _is_allowed(path: str, allowed: frozenset[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in allowed)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _home(path: str) -> str | None:
    """The module that what an allowed module calls by this name was written in; None if unknown."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
            for name in parts[count:]:
                found = getattr(found, name)
        except (ImportError, AttributeError):
            continue
        home = getattr(found, "__module__", None) or getattr(found, "__name__", None)
        return home if isinstance(home, str) else None
    return None
