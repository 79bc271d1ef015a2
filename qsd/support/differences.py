"""Where two documents first differ, for messages that name the part."""

from collections.abc import Iterator, Mapping
from typing import Any


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first place at which two nested mappings differ.

    Args:
        one: JSON values.
        other: likewise; its keys come second.

    Returns:
        The dotted key and the two values there (None where one has no such key), or None if nothing differs.
    """
    ours, theirs = dict(_leaves(one, "")), dict(_leaves(other, ""))
    for key in dict.fromkeys([*ours, *theirs]):
        if ours.get(key) != theirs.get(key):
            return key, ours.get(key), theirs.get(key)
    return None


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(inner) if isinstance(inner, tuple) else inner
