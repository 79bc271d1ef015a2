"""Option names and tables."""

import pytest

from qsd.quantizers import DEFAULT_OPTIONS, Option, options_hash, parse_options
from qsd.support.errors import QsdError


def test_default_table_order() -> None:
    names = ["uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4"]
    assert [str(option) for option in DEFAULT_OPTIONS] == names
    assert parse_options(names) == DEFAULT_OPTIONS


@pytest.mark.parametrize("text", ["uaq", "uaq-1", "uaq-9", "kmeans-4", "uaq-x", "", "-4", "uaq--4", "uaq-²"])
def test_unknown_option(text: str) -> None:
    with pytest.raises(QsdError, match=r"uaq, kmeans_c, kmeans_a and BITS from 2 to 8"):
        Option.parse(text)


def test_option_checks_itself() -> None:
    with pytest.raises(QsdError, match="unknown quantization option 'gptq-4'"):
        Option("gptq", 4)


@pytest.mark.parametrize("bits", range(2, 9))
def test_text_round_trip(bits: int) -> None:
    option = Option("kmeans_a", bits)
    assert Option.parse(str(option)) == option
    assert option.levels == 2**bits


def test_bad_tables() -> None:
    with pytest.raises(QsdError, match="'uaq-4' is named twice"):
        parse_options(["uaq-4", "uaq-3", "uaq-4"])
    with pytest.raises(QsdError, match="no quantization options"):
        parse_options([])


def test_hash_depends_on_order_and_never_changes() -> None:
    assert options_hash(DEFAULT_OPTIONS) != options_hash(DEFAULT_OPTIONS[::-1])
    assert options_hash(DEFAULT_OPTIONS) == "935cb453fe22"
