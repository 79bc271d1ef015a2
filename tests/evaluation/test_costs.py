"""`qsd profile`: the real verb on a tiny pipeline."""

import json
from pathlib import Path

import pytest
from support.exported import OPTIONS, mixed
from support.tiny_pipelines import pixart_alpha

from qsd.bank import build_bank
from qsd.cli import main
from qsd.evaluation.costs import CACHED, FULL, PACKED, Call, Costs, rows_of
from qsd.evaluation.peers import PEERS, check_peer
from qsd.export.write import export
from qsd.quantizers import parse_options
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An export and the pipeline that it was made from."""
    out = tmp_path_factory.mktemp("profile")
    pipe = pixart_alpha()
    pipe.save_pretrained(out / "full")
    bank = build_bank(pipe.transformer, parse_options(OPTIONS))
    export(pipe, bank, mixed(bank), out / "packed")
    return str(out / "packed"), str(out / "full")


@pytest.mark.slow
def test_the_verb_measures_every_form(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, full = folders
    plot = tmp_path / "costs.png"
    words = ["profile", "--export", packed, "--against", full, "--batch-sizes", "[1, 3]", "--steps", "0"]
    assert main([*words, "--repeats", "2", "--plot", str(plot), "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)["costs"]
    assert [cost["name"] for cost in costs] == [FULL, PACKED, CACHED]
    assert costs[1]["file_bytes"] < costs[0]["file_bytes"]
    assert costs[1]["held_bytes"] < costs[2]["held_bytes"]
    for cost in costs:
        assert [call["batch_size"] for call in cost["calls"]] == [1, 3]
        assert all(call["call_seconds"] > 0 for call in cost["calls"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_table_fits_a_terminal() -> None:
    calls = [Call(size, 1024, 16384, 12.3456, 12.3456, 123.456) for size in (1, 16)]
    costs = [Costs(name, 1_234_567_890, 12.3, 10**9, 10**9, 10**9, calls) for name in (FULL, PACKED, CACHED)]
    rows = rows_of(costs)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    assert sum(widths) + len(widths) - 1 <= 80
    assert rows[1][8] == "1.00"


def test_peers_that_are_missing_are_told_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", ("no.such.module", lambda denoiser: None))
    with pytest.raises(QsdError, match="--peers absent: is not installed"):
        check_peer("absent")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--export", "nowhere"], "nowhere"),
        (["--dtype", "int7"], "int7"),
        (["--peers", "[nobody]"], "torchao"),
        (["--device", "nowhere"], "device nowhere"),
        (["--plot", "costs.txt"], "--plot costs.txt: ends with no kind of image"),
        (["--batch-sizes", "[]"], "at least one of --batch-sizes"),
    ],
)
def test_mistakes(
    folders: tuple[str, str], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, full = folders
    export_words = [] if words[0] == "--export" else ["--export", packed]
    assert main(["profile", *export_words, "--against", full, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("qsd: ") and said in error


def test_another_pipeline_is_refused(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = pixart_alpha()
    pipe.transformer.register_to_config(norm_eps=0.5)
    pipe.save_pretrained(tmp_path / "other")
    assert main(["profile", "--export", folders[0], "--against", str(tmp_path / "other")]) == 2
    assert "of another configuration; name the pipeline" in " ".join(capsys.readouterr().err.split())
