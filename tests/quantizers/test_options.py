"""Option texts and tables."""

import pytest

from qsd.quantizers import DEFAULT_OPTIONS, PAPER_OPTIONS, Option, options_hash, parse_options
from qsd.quantizers.option import SCHEMES
from qsd.quantizers.options import paper_form
from qsd.support.errors import QsdError

TEXTS = [
    "uaq-2",
    "uaq-4",
    "uaq-3:paper",
    "uaq-4g64",
    "uaq-4g32:s8",
    "uaq-4g32:sym",
    "uaq-3g128:sym:f8",
    "uaq-4:sym:s8",
    "int8",
    "kmeans_c-3",
    "kmeans_c-4:paper",
    "kmeans_c-3g128",
    "kmeans_a-3",
    "kmeans_a-4:paper",
    "lloyd-4",
    "lloyd-4g32",
    "lloyd-3g64:s8",
    "lloyd-5:f8",
    "nf4",
    "nf4g64",
    "nf4g64:f8",
    "fp4g32",
    "fp4g16:f8",
    "fp8_e4m3",
    "fp8_e4m3:row",
    "keep",
    "hadamard+uaq-4",
    "uaq-4g64+r16",
    "hadamard+lloyd-4g32:s8+r8",
    "q8_0",
    "q6_k",
    "q5_k",
    "q5_0",
    "q4_k",
    "q4_1",
    "q4_0",
    "iq4_xs",
    "q3_k",
    "iq3_s",
    "q2_k",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trip(text: str) -> None:
    option = Option.parse(text)
    assert str(option) == text
    assert Option.parse(f" {option}\n") == option and hash(Option.parse(text)) == hash(option)


def test_options_are_equal_only_to_themselves() -> None:
    assert len({Option.parse(text) for text in TEXTS}) == len(TEXTS)


def test_paper_table_order() -> None:
    names = ["uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4"]
    assert [str(option) for option in PAPER_OPTIONS] == [f"{name}:paper" for name in names]
    assert parse_options(["paper"]) == PAPER_OPTIONS == parse_options([paper_form(name) for name in names])
    assert parse_options(["default"]) == DEFAULT_OPTIONS == parse_options(list(map(str, DEFAULT_OPTIONS)))


@pytest.mark.parametrize("text", ["gptq-4", "kmeans-4", "", "-4", "hadamard", "hadamard+", "+r4", "4"])
def test_unknown_scheme(text: str) -> None:
    with pytest.raises(QsdError, match=r"unknown quantization option '.*': write one of uaq-BITS.*\+rRANK"):
        Option.parse(text)


@pytest.mark.parametrize("text", ["UAQ-4", "Keep", "Q4_K", "uaq-4G64:SYM"])
def test_capitals(text: str) -> None:
    with pytest.raises(QsdError, match=f"small letters, '{text.lower()}'"):
        Option.parse(text)


@pytest.mark.parametrize("digits", ["9" * 5000, "0" * 5000, "1" * 10])
@pytest.mark.parametrize("form", ["uaq-{}", "uaq-4g{}", "lloyd-3+r{}", "q4_k-{}"])
def test_numbers_of_many_digits(form: str, digits: str) -> None:
    with pytest.raises(QsdError, match=r"^unknown quantization option '.{,63}': write .*$"):
        Option.parse(form.format(digits))


@pytest.mark.parametrize("text", ["hadamard+" * 5000 + "uaq-4", "uaq-4" + "+r1" * 5000, "uaq-4\n:sym"])
def test_long_and_broken_texts_end_in_one_short_line(text: str) -> None:
    with pytest.raises(QsdError) as error:
        Option.parse(text)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "uaq",
        "uaq-1",
        "uaq-9",
        "uaq-4:row",
        "uaq-4:sym:sym",
        "uaq-4:f8:s8",
        "uaq-4g64:paper",
        "uaq-4g7",
        "uaq-4g0",
        "uaq-04",
        "uaq-4g032",
        "uaq-4g-32",
        "uaq--4",
        "uaq-²",
        "uaq-4+r0",
        "uaq-4+r016",
        "int8g0",
        "keepg0",
        "kmeans_a-3g0",
        "kmeans_c-3g0:paper",
        "kmeans_a-4g64",
        "lloyd-7",
        "lloyd",
        "nf4-4",
        "keep-4",
        "int8g64",
        "fp8_e4m3g32",
        "q4_k-4",
        "q4_k:sym",
        "kmeans_c-4g64:paper",
    ],
)
def test_settings_that_a_scheme_does_not_have(text: str) -> None:
    found = next(SCHEMES[name] for name in SCHEMES if text.startswith(name))
    with pytest.raises(QsdError) as error:
        Option.parse(text)
    limits = f" ({found.limits})" if found.limits else ""
    assert str(error.value) == f"unknown quantization option '{text}': write {found.grammar}{limits}"


@pytest.mark.parametrize("text", ["hadamard+keep", "keep+r4", "uaq-4+r2+r3", "hadamard+hadamard+uaq-4"])
def test_wrappers_stand_once_and_around_what_is_quantized(text: str) -> None:
    with pytest.raises(QsdError, match="can have nothing more around it"):
        Option.parse(text)


def test_bad_tables() -> None:
    with pytest.raises(QsdError, match="'uaq-4' is named twice"):
        parse_options(["uaq-4", "uaq-3", "uaq-4"])
    with pytest.raises(QsdError, match="no quantization options"):
        parse_options([])
    with pytest.raises(QsdError, match="'uaq-4:sym:f8' is named twice"):
        parse_options(["uaq-4:sym:f8", "uaq-4:f8:sym"])
    with pytest.raises(QsdError, match="'int8' is named twice"):
        parse_options(["uaq-8:sym", "int8"])
    with pytest.raises(QsdError, match=r"'paper' among .*\(default, paper, .*\) stands alone"):
        parse_options(["keep", "paper"])
    with pytest.raises(QsdError, match=r"'Default' among .* small letters"):
        parse_options("Default")
    for text in ("uaq-4,uaq-3", "uaq-4 uaq-3", "uaq-4, uaq-3", "[uaq-4, uaq-3]"):
        with pytest.raises(QsdError, match=r"not one option: write a list of options, \[uaq-4, uaq-3\]"):
            parse_options(text)
    assert parse_options(" default ") == DEFAULT_OPTIONS


def test_hash_depends_on_order_and_never_changes() -> None:
    plain = parse_options(["uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4"])
    assert options_hash(plain) != options_hash(plain[::-1])
    assert options_hash(plain) == "935cb453fe22"
