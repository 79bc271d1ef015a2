"""MPQ-Diff on an unconditional pipeline, its home: bits of weights and of activations, no label."""

import json
from pathlib import Path

import pytest
from support.tiny_pipelines import unconditional

from qsd.bank import Bank
from qsd.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ddpm")
    unconditional().save_pretrained(path / "pipe")
    (path / "evaluation.yaml").write_text("num_images: 8\nsteps: 3\nguidance: 1.0\nbatch_size: 8\n")
    words = ["bank", "--pipeline", str(path / "pipe"), "--out", str(path / "bank.safetensors"), "--json"]
    assert main([*words, "--options", "[uaq-3, uaq-4, int8]", "--activations", "[16, 8, 4]"]) == 0
    return path


def search(folder: Path, *words: str) -> list[str]:
    given = ["search", "--method", "orthogonality", "--bank", str(folder / "bank.safetensors"), "--json"]
    given += ["--pipeline", str(folder / "pipe"), "--evaluation", str(folder / "evaluation.yaml")]
    given += ["--out", str(folder / "out"), "--overwrite", "--orthogonality.samples", "8"]
    return [*given, "--orthogonality.steps", "2", *words]


def test_bits_of_weights_within_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = Bank.load(folder / "bank.safetensors")
    limit = int(bank.config_bytes(bank.uniform_config("uaq-4")))
    found = {}
    for reading in ("similarity", "importance"):
        for debiased in ("true", "false"):
            words = ["--orthogonality.aggregation", reading, "--orthogonality.debiased", debiased]
            assert main(search(folder, "--max-bytes", str(limit), *words)) == 0
            members = json.loads(capsys.readouterr().out)["members"]
            assert members and members[-1]["bytes"] <= limit
            found[reading, debiased] = json.loads((folder / "out/best.json").read_text())["layers"]
    assert len({json.dumps(layers) for layers in found.values()}) > 1
    assert main(search(folder, "--orthogonality.sweep", "[0.5, 2]")) == 2
    assert "orthogonality.sweep: needs --ranker" in capsys.readouterr().err


def test_bits_of_activations_within_bit_operations_and_mean_bits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank.load(folder / "bank.safetensors")
    widest = float(8 * 16 * bank.macs.sum())
    told = {}
    for words in (["--max-bops", str(widest / 4)], ["--max-act-bits", "7"]):
        assert main(search(folder, "--max-bits", "6", *words)) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["bits"] <= 6 + 1e-9
        told[words[0]] = found
    assert 0.8 * widest / 4 < told["--max-bops"]["bit-operations"] <= widest / 4 + 1
    assert 6 < told["--max-act-bits"]["activation bits"] <= 7 + 1e-9
    document = json.loads((folder / "out/best.json").read_text())
    assert set(document["activations"].values()) <= {"16", "8", "4"}
