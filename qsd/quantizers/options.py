"""Option tables: the order of the options of a bank, which is the meaning of the integers in a config."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from qsd.quantizers import schemes
from qsd.quantizers.option import Option, shortened
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


def _table(words: str) -> tuple[Option, ...]:
    return tuple(map(Option.parse, words.split()))


PAPER_OPTIONS = _table(
    "uaq-3:paper uaq-4:paper kmeans_c-3:paper kmeans_c-4:paper kmeans_a-3:paper kmeans_a-4:paper"
)
"""The space of Qua²SeDiMo (AAAI-25)."""

DEFAULT_OPTIONS = _table(
    "lloyd-2g32:f8 lloyd-3:f8 lloyd-3g32:f8 hadamard+lloyd-3g32:f8 lloyd-4:f8 lloyd-4g32:f8 "
    "hadamard+lloyd-4g32:f8 lloyd-5g32:f8 lloyd-6g32:f8 int8"
)
"""Fine steps where the budget of a config is, coarser ones for layers that bear less or more; those without
groups fit every layer. `benchmarks/options.py` compares them with others."""

TABLES = {
    "default": DEFAULT_OPTIONS,
    "paper": PAPER_OPTIONS,
    "sdnq": _table("uaq-3 uaq-4 uaq-5 kmeans_a-3 kmeans_a-4 kmeans_a-5 int8 keep"),
    "gguf": _table("q2_k q3_k q4_0 q4_k iq4_xs q5_0 q5_k q6_k q8_0 keep"),
    "comfy": _table("w4a8 int8 keep"),
}
"""Whole tables that have a name of their own; those named as an export format are what suits it."""


def parse_options(texts: Iterable[str] | str) -> tuple[Option, ...]:
    """Reads an option table; its order is the meaning of the integers in a config.

    Args:
        texts: options, or one; a single word such as ``default`` or ``paper`` stands for a whole
            table (:data:`TABLES`).

    Raises:
        QsdError: If the table is empty, or an option is unknown or named twice.
    """
    texts = [text.strip() for text in ([texts] if isinstance(texts, str) else texts)]
    if len(texts) == 1 and texts[0] in TABLES:
        return TABLES[texts[0]]
    for text in texts:
        _check_one(text)
    options = tuple(map(Option.parse, texts))
    if not options:
        raise QsdError(
            f"no quantization options given: name at least one, for example '{DEFAULT_OPTIONS[0]}'"
        )
    for position, option in enumerate(options):
        if option in options[:position]:
            raise QsdError(f"quantization option '{option}' is named twice: name each option once")
    return options


def _check_one(text: str) -> None:
    """Refuses what people write in the place of one option and means several."""
    if text.lower() in TABLES:
        raise QsdError(
            f"'{text}' among options: a table by name ({', '.join(TABLES)}) stands alone, in small letters"
        )
    if len(words := re.findall(r"[^\s,\[\]]+", text)) > 1:
        raise QsdError(
            f"'{shortened(text)}' is not one option: write a list of options, [{shortened(', '.join(words))}]"
        )


def options_hash(options: Sequence[Option]) -> str:
    """A short hash (12 hexadecimal digits) of an option table and its order, stable across versions."""
    return hashlib.sha256(",".join(map(str, options)).encode()).hexdigest()[:12]


def paper_form(text: str) -> str:
    """What files of the time before there were other forms mean by an option's text.

    Until then ``uaq-4`` was what is ``uaq-4:paper`` now; a text that says more is returned as it is.
    """
    return text if ":" in text else f"{text}:paper"
