"""Pins and floors: options that a user fixes, or bounds from below, by pattern of layer names."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qsd.support.errors import QsdError


def permitted(
    available: np.ndarray,
    texts: Sequence[str],
    bits: np.ndarray,
    pins: Mapping[str, str],
    floors: Mapping[str, str],
    *,
    units: Callable[[str, str], np.ndarray],
    name: Callable[[int], str],
) -> np.ndarray:
    """Which options are left, bool [U, O].

    Args:
        available: bool [U, O], before.
        texts: O options.
        bits: float [O], of the options.
        pins: pattern -> option.
        floors: pattern -> option; that one or one of more bits.
        units: units of a pattern, which has a message for one that matches nothing: pattern, rule.
        name: what to call a unit.

    Raises:
        QsdError: an option is unknown, or nothing is left for a unit.
    """
    allowed = available.copy()
    blame: dict[int, list[str]] = {}
    for word, rules in (("keep", pins), ("at-least", floors)):
        for pattern, text in rules.items():
            rule = f"{word} {pattern}={text}"
            if text not in texts:
                raise QsdError(f"{rule}: no such option; the bank has {', '.join(texts)}")
            chosen = list(texts).index(text)
            kept = bits >= bits[chosen] if word == "at-least" else np.zeros(len(bits), dtype=bool)
            kept[chosen] = True
            for unit in units(pattern, rule):
                allowed[unit] &= kept
                blame.setdefault(int(unit), []).append(rule)
    empty = np.flatnonzero(~allowed.any(axis=1))
    if len(empty):
        unit = int(empty[0])
        able = [text for text, fits in zip(texts, available[unit], strict=True) if fits]
        raise QsdError(
            f"{name(unit)}: {' and '.join(blame.get(unit, []))} leave it no option; it can take "
            f"{', '.join(able)}"
        )
    return allowed


def matching(names: Sequence[str], pattern: str, rule: str) -> list[int]:
    """Positions of the layers that a pattern names: exactly, or by * and ?.

    Raises:
        QsdError: none.
    """
    layers = [
        index
        for index, name in enumerate(names)
        if name == pattern or fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
    ]
    if not layers:
        raise QsdError(
            f"{rule}: matches no layer; patterns match whole names such as {names[0]} "
            f"and {names[-1]} (* stands for anything)"
        )
    return layers


def apart(rules: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Rules of weights and rules of activations, of options such as ``uaq-4``, ``uaq-4@8`` and ``@8``."""
    weights, activations = {}, {}
    for pattern, text in rules.items():
        weight, marked, rounded = text.partition("@")
        if weight or not marked:
            weights[pattern] = weight
        if marked:
            activations[pattern] = rounded
    return weights, activations
