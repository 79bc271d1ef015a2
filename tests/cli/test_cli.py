"""The real command line, in process: verbs, lookups, and one line for every mistake."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.options import SIX
from support.synthetic_store import synthetic_store
from support.tiny import tiny_pixart

from qsd.bank import build_bank
from qsd.cli import VERBS, main
from qsd.configs.document import config_to_json, save_config
from qsd.support.paths import find, shipped_root

PIPELINE = "checkpoints/digits-pixart-alpha"


def _fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs a command that must fail; returns its one line on standard error."""
    assert main(words) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("qsd:")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)


def test_a_folder_that_may_not_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str]) -> None:
        raise PermissionError(13, "Permission denied", "/data/out/store.h5")

    monkeypatch.setattr("qsd.cli.graph.run", run)
    line = _fails(capsys, "graph")
    assert "/data/out/store.h5: permission denied; check the path and what it permits" in line


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_unknown_verb_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = _fails(capsys, "frobnicate")
    assert "no verb 'frobnicate'" in line
    assert "lightning-sdk" in line


def test_other_verbs_go_to_lightning_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    script = SimpleNamespace(load=lambda: lambda: seen.append(list(sys.argv)))
    entry_points = SimpleNamespace(select=lambda **_: [script])
    monkeypatch.setattr("qsd.cli.distribution", lambda name: SimpleNamespace(entry_points=entry_points))
    monkeypatch.setattr(sys, "argv", ["lightning"])
    assert main(["login", "--user", "me"]) == 0
    assert seen == [["lightning", "login", "--user", "me"]]


def test_shipped_names_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("pixart.yaml") == shipped_root() / "lightning_configs" / "pixart.yaml"
    assert find("datasets/digits-pixart-alpha.h5").is_file()
    assert find(PIPELINE).is_dir()
    (tmp_path / "pixart.yaml").write_text("{}")
    assert find("pixart.yaml") == Path("pixart.yaml")


def test_absent_config_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.yaml: no such file here" in _fails(capsys, "fit", "--config", "absent.yaml")


def test_store_info_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = synthetic_store(tmp_path / "s.h5", num_records=40)
    assert main(["store", "info", str(store.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["records"] == 40
    assert facts["splits"] == {"train": 28, "validation": 4, "test": 8}
    assert facts["labels"]["fid"]["min"] == pytest.approx(store.values("fid").min())
    assert main(["store", "info", str(store.path)]) == 0
    assert "40 configs of Synthetic" in " ".join(capsys.readouterr().out.split())


def test_bank_verb_writes_what_the_library_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bank.safetensors"
    words = ["bank", "--pipeline", PIPELINE, "--out", str(out), "--options", "[uaq-4]", "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["option"] for row in report["uniform"]] == ["uaq-4"]
    assert report["uniform"][0]["bytes"] < out.stat().st_size


def test_a_bank_of_another_input_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bank.safetensors"
    words = ["bank", "--pipeline", PIPELINE, "--out", str(out)]
    assert main([*words, "--options", "[uaq-4]"]) == 0
    before = out.read_bytes(), out.stat().st_mtime_ns
    first = capsys.readouterr().out
    assert main([*words, "--options", "[uaq-4]"]) == 0
    again = capsys.readouterr()
    assert "is there already, of the same denoiser and options" in " ".join(again.err.split())
    assert again.out == first
    assert "made of another option table" in _fails(capsys, *words, "--options", "[uaq-3]")
    assert "made of another graph" in _fails(capsys, *words, "--options", "[uaq-4]", "--graph", "chain")
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    assert main([*words, "--options", "[uaq-3]", "--overwrite"]) == 0
    assert out.read_bytes() != before[0]
    out.write_text("no bank")
    assert "--overwrite" in _fails(capsys, *words, "--options", "[uaq-3]")


def test_a_demo_of_other_settings_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "summary.json"
    for text, message in (
        ('{"settings": {"pipeline": "mine"}}', "made of another settings"),
        ("{", "no summary"),
    ):
        file.write_text(text)
        assert message in _fails(capsys, "demo", "--out", str(tmp_path))
        assert file.read_text() == text
        assert list(tmp_path.iterdir()) == [file]


def test_mistakes_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = _fails(capsys, "bank", "--pipeline", PIPELINE, "--out", str(out), "--options", "[uaq-9]")
    assert "uaq-9" in line
    line = _fails(capsys, "bank", "--pipeline", str(tmp_path), "--out", str(out))
    assert "cannot be opened as a diffusers pipeline" in line
    line = _fails(capsys, "store", "info", str(tmp_path / "absent.h5"))
    assert "absent.h5: no such store" in line
    line = _fails(capsys, "zoo", "train", "digits-nonsense")
    assert "digits-pixart-alpha" in line
    assert not out.exists()


def test_configs_of_other_denoisers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = build_bank(tiny_pixart(), SIX)
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    names = [str(option) for option in bank.options]
    document = config_to_json(
        np.zeros(len(bank.layers), np.int8), bank.layer_names, names, bank.denoiser, bank.options_hash
    )
    export = ["export", "--pipeline", PIPELINE, "--bank", str(path), "--out", str(tmp_path / "out")]

    save_config(tmp_path / "config.json", document)
    assert "made for" in _fails(capsys, *export, "--config_file", str(tmp_path / "config.json"))

    document["layers"] = {**document["layers"], "no_such_layer": "uaq-4"}
    save_config(tmp_path / "unknown.json", document)
    line = _fails(capsys, *export, "--config_file", str(tmp_path / "unknown.json"))
    assert "unknown.json: layer 'no_such_layer'" in line

    stranger = {**document, "denoiser": {**bank.denoiser, "weights_hash": "0" * 32}}
    save_config(tmp_path / "stranger.json", stranger)
    assert "stranger.json: made for" in _fails(
        capsys, *export, "--config_file", str(tmp_path / "stranger.json")
    )
    assert not (tmp_path / "out").exists()
