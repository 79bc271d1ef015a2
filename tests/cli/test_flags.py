"""Boolean options are flags, in what is typed and in what help shows."""

from pathlib import Path

import pytest

from qsd.cli import main
from qsd.cli.console import run_function

FOUND: list[dict[str, object]] = []


def verb(name: str, json: bool = False, debiased: bool = True, maybe: bool | None = None) -> None:
    """A verb.

    Args:
        name: of something.
        json: as JSON.
        debiased: without bias.
        maybe: or not.
    """
    FOUND.append({"name": name, "json": json, "debiased": debiased, "maybe": maybe})


PLAIN = {"name": "x", "json": False, "debiased": True, "maybe": None}


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ([], {}),
        (["--json"], {"json": True}),
        (["--json=true"], {"json": True}),
        (["--json", "true"], {"json": True}),
        (["--json", "false"], {}),
        (["--no-debiased", "--json"], {"debiased": False, "json": True}),
        (["--no_debiased"], {"debiased": False}),
        (["--debiased"], {}),
        (["--maybe"], {"maybe": True}),
        (["--no-maybe"], {"maybe": False}),
        (["--maybe", "null"], {}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_flags(words: list[str], changed: dict[str, object], first: bool) -> None:
    FOUND.clear()
    run_function(verb, ["verb", *words, "x"] if first else ["verb", "x", *words], positional=True)
    assert [PLAIN | changed] == FOUND


def test_flags_of_sub_verbs_and_settings_files(tmp_path: Path) -> None:
    FOUND.clear()
    run_function({"some": verb}, ["verb", "some", "--json", "x"], positional=True)
    settings = tmp_path / "settings.yaml"
    settings.write_text("name: y\njson: true\ndebiased: false\n")
    run_function(verb, ["verb", "--config", str(settings)])
    assert FOUND == [PLAIN | {"json": True}, PLAIN | {"name": "y", "json": True, "debiased": False}]


def test_help_shows_what_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_function(verb, ["verb", "--help"], positional=True)
    shown = capsys.readouterr().out
    usage, options = shown.split("options:")
    assert "[--json]" in usage and "[--no_debiased]" in usage and "{true,false}" not in shown
    assert "\n  --json " in options and "\n  --no_debiased " in options


def test_a_flag_takes_no_other_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_function(verb, ["verb", "x", "--json=maybe"], positional=True)
    assert "json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("label --bank b --store s --workers 0", "workers: 0 is not > 0"),
        ("label --bank b --store s --workers -1", "workers: -1 is not > 0"),
        ("label --bank b --store s --num-configs 0", "num_configs: 0 is not > 0"),
        ("probe --bank b --store s --num-images 0", "num_images: 0 is not > 0"),
        ("search --bank b --verify -1", "verify: -1 is not >= 0"),
        ("search --bank b --rounds 0", "rounds: 0 is not > 0"),
        ("compress p --max-bits 3 --workers 0", "workers: 0 is not > 0"),
        ("measure --bank b --workers 0", "workers: 0 is not > 0"),
        ("tune --trials 0", "trials: 0 is not > 0"),
        ("tune --config pixart.yaml --epochs -1", "epochs: -1 is not >= 0"),
        ("label --bank b --store s --images 0", "images: 0 is not > 0"),
        ("explain --store s --top 0", "top: 0 is not > 0"),
        ("report run --study --trials 0", "trials: 0 is not > 0"),
        ("profile --export e --against a --repeats 0", "repeats: 0 is not > 0"),
        ("profile --export e --against a --batch-sizes [0]", "batch_sizes: 0 is not > 0"),
    ],
)
def test_counts_that_are_none(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
