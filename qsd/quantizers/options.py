"""Option tables: the order of the options of a bank, which is the meaning of the integers in a config."""

import hashlib
from collections.abc import Iterable, Sequence

from qsd.quantizers import schemes
from qsd.quantizers.option import Option
from qsd.support.errors import QsdError

__all__ = [
    "DEFAULT_OPTIONS",
    "PAPER_OPTIONS",
    "Option",
    "options_hash",
    "paper_form",
    "parse_options",
    "schemes",
]

PAPER_OPTIONS = tuple(
    Option.parse(f"{method}-{bits}:paper") for method in ("uaq", "kmeans_c", "kmeans_a") for bits in (3, 4)
)
"""The space of Qua²SeDiMo (AAAI-25)."""

DEFAULT_OPTIONS = tuple(
    map(
        Option.parse,
        (
            "lloyd-2g32:f8",
            "lloyd-3:f8",
            "lloyd-3g32:f8",
            "hadamard+lloyd-3g32:f8",
            "lloyd-4:f8",
            "lloyd-4g32:f8",
            "hadamard+lloyd-4g32:f8",
            "lloyd-5g32:f8",
            "lloyd-6g32:f8",
            "int8",
        ),
    )
)
"""Fine steps where the budget of a config is, coarser ones for layers that bear less or more; those without
groups fit every layer. `benchmarks/options.py` compares them with others."""

TABLES = {"default": DEFAULT_OPTIONS, "paper": PAPER_OPTIONS}
"""Whole tables that have a name of their own."""


def parse_options(texts: Iterable[str]) -> tuple[Option, ...]:
    """Reads an option table; its order is the meaning of the integers in a config.

    Args:
        texts: options; the single word ``default`` or ``paper`` stands for a whole table.

    Raises:
        QsdError: If the table is empty, or an option is unknown or named twice.
    """
    texts = list(texts)
    if len(texts) == 1 and texts[0] in TABLES:
        return TABLES[texts[0]]
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


def paper_form(text: str) -> str:
    """What files of the time before there were other forms mean by an option's text.

    Until then ``uaq-4`` was what is ``uaq-4:paper`` now; a text that says more is returned as it is.
    """
    return text if ":" in text else f"{text}:paper"
