"""Names of the ways in which one weight layer can be stored: a method and a bit width."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsd.support.errors import QsdError

METHODS = ("uaq", "kmeans_c", "kmeans_a")
"""Uniform affine per output channel; one k-means codebook per output channel; one for all the weight."""

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True, order=True)
class Option:
    """A quantization method and a bit width, written ``uaq-4``, ``kmeans_c-3``, ``kmeans_a-4``.

    Attributes:
        method: One of :data:`METHODS`.
        bits: Bits per code, 2 to 8.

    Raises:
        QsdError: If the method or the bit width does not exist.
    """

    method: str
    bits: int

    def __post_init__(self) -> None:
        if self.method not in METHODS or not MIN_BITS <= self.bits <= MAX_BITS:
            raise QsdError(_unknown(f"{self.method}-{self.bits}"))

    def __str__(self) -> str:
        return f"{self.method}-{self.bits}"

    @property
    def levels(self) -> int:
        """Number of entries of a codebook, 2^bits."""
        return 1 << self.bits

    @classmethod
    def parse(cls, text: str) -> "Option":
        """Reads the text form, for example ``kmeans_c-3``.

        Raises:
            QsdError: If the text names no method or no bit width that exists.
        """
        method, _, bits = text.strip().rpartition("-")
        if method not in METHODS or not (bits.isascii() and bits.isdigit()):
            raise QsdError(_unknown(text))
        return cls(method, int(bits))


def _unknown(text: str) -> str:
    return (
        f"unknown quantization option '{text}': write METHOD-BITS with METHOD one of "
        f"{', '.join(METHODS)} and BITS from {MIN_BITS} to {MAX_BITS}, for example 'kmeans_c-4'"
    )


DEFAULT_OPTIONS = tuple(Option(method, bits) for method in METHODS for bits in (3, 4))


def parse_options(texts: Iterable[str]) -> tuple[Option, ...]:
    """Reads an option table; its order is the meaning of the integers in a config.

    Raises:
        QsdError: If the table is empty, or an option is unknown or named twice.
    """
    options = tuple(Option.parse(text) for text in texts)
    if not options:
        raise QsdError(
            f"no quantization options given: name at least one, for example '{DEFAULT_OPTIONS[0]}'"
        )
    for position, option in enumerate(options):
        if option in options[:position]:
            raise QsdError(f"quantization option '{option}' is named twice: name each option once")
    return options


def options_hash(options: Sequence[Option]) -> str:
    """A short hash (12 hexadecimal digits) of an option table and its order, stable across versions."""
    return hashlib.sha256(",".join(map(str, options)).encode()).hexdigest()[:12]
