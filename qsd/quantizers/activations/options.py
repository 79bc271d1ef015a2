"""Names of the ways in which the input of a layer can be rounded: bits, and letters for what they need."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Self

from qsd.support.errors import QsdError

FULL_BITS = 16
MIN_BITS, MAX_BITS = 2, 8
_SPELLING = re.compile(r"(\d+)(h|m)?(t)?", re.ASCII)


@dataclasses.dataclass(frozen=True, order=True)
class ActivationOption:
    """How the input of a layer is rounded, written ``16``, ``8``, ``6h``, ``8t`` or ``8mt``.

    Attributes:
        bits: 2 to 8, or 16: the input stays as it is.
        transform: what goes in front: ``h`` a block-Hadamard rotation, ``m`` smoothing by channel, or
            nothing.
        static: ranges of the whole tensor, fixed before from full-precision images (``t``); otherwise those
            of each token, taken on the fly.

    Raises:
        QsdError: there is no such option.
    """

    bits: int
    transform: str = ""
    static: bool = False

    def __post_init__(self) -> None:
        full = self.bits == FULL_BITS
        if not (full or MIN_BITS <= self.bits <= MAX_BITS) or (full and (self.transform or self.static)):
            raise QsdError(_unknown(str(self)))

    def __str__(self) -> str:
        return f"{self.bits}{self.transform}{'t' if self.static else ''}"

    @property
    def is_full(self) -> bool:
        """Whether the input stays as it is."""
        return self.bits == FULL_BITS

    @property
    def needs_ranges(self) -> bool:
        """Whether it has to be calibrated on full-precision images."""
        return self.static or self.transform == "m"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form.

        Raises:
            QsdError: the text names no option.
        """
        match = _SPELLING.fullmatch(str(text).strip())
        if match is None:
            raise QsdError(_unknown(text))
        return cls(int(match[1]), match[2] or "", bool(match[3]))


def _unknown(text: object) -> str:
    return (
        f"unknown activation option '{text}': write 16 (as it is) or BITS from {MIN_BITS} to {MAX_BITS} "
        "followed by h (rotation) or m (smoothing) and by t (static ranges) as you like, for example '8h'"
    )


FULL_ACTIVATIONS = (ActivationOption(FULL_BITS),)
"""The table of whoever did not ask for anything: inputs stay as they are."""


def parse_activations(texts: Iterable[str | int | ActivationOption]) -> tuple[ActivationOption, ...]:
    """Reads a table of activation options; its order is the meaning of the integers of an activation vector.

    16 stands first in every table, named or not: a layer can always keep its input.

    Raises:
        QsdError: no option is named, or one is unknown or named twice.
    """
    options = tuple(ActivationOption.parse(str(text)) for text in texts)
    if not options:
        raise QsdError("no activation options given: name at least one, for example '16'")
    for position, option in enumerate(options):
        if option in options[:position]:
            raise QsdError(f"activation option '{option}' is named twice: name each option once")
    return (FULL_ACTIVATIONS[0], *(option for option in options if not option.is_full))
