"""An export over an earlier one: the same is written again, another is kept."""

from pathlib import Path

import pytest

from qsd.api import build_bank
from qsd.cli import main
from qsd.denoisers.pipeline import load_pipeline

PIPELINE = "checkpoints/digits-dit"
FEW = ["--settings.images=8", "--settings.validation_images=8", "--settings.batch_size=8"]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.safetensors"
    build_bank(load_pipeline(PIPELINE), ["uaq-3", "uaq-4"], activations=["16", "8"]).save(path)
    return path


@pytest.mark.parametrize("format", ["qsd", "sdnq", "recipe"])
def test_the_same_is_written_again_and_another_only_with_overwrite(
    bank: Path, format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--pipeline", PIPELINE, "--bank", str(bank), "--out", str(tmp_path / "out")]
    words += ["--format", format]
    assert main([*words, "--config-file", "uaq-4"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main([*words, "--config-file", "uaq-4"]) == 0
    capsys.readouterr()
    assert main([*words, "--config-file", "uaq-3"]) == 2
    assert "out: is there already, made of another config; name another --out, or" in _said(capsys)
    other = "qsd" if format != "qsd" else "recipe"
    assert main([*words, "--config-file", "uaq-4", "--format", other]) == 2
    assert "made of another format" in _said(capsys)
    assert {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == before.keys()
    assert main([*words, "--config-file", "uaq-3", "--overwrite"]) == 0


def test_what_was_trained_and_what_rounds_is_kept(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, trained = str(tmp_path / "out"), str(tmp_path / "trained")
    words = ["export", "--pipeline", PIPELINE, "--bank", str(bank)]
    assert main([*words, "--config-file", "uaq-3@8", "--out", out]) == 0
    assert main([*words, "--config-file", "uaq-3", "--out", out]) == 2
    assert "made of another rounding of activations" in _said(capsys)
    (tmp_path / "evaluation.yaml").write_text(
        "prompts: datasets/digits/class_prompts.txt\nnum_images: 8\nsteps: 2\nguidance: 1.0\nbatch_size: 8\n"
    )
    train = ["finetune", out, "--pipeline", PIPELINE, "--out", trained, *FEW]
    train += ["--evaluation", str(tmp_path / "evaluation.yaml")]
    assert main([*train, "--settings.epochs=1"]) == 0
    assert main([*train, "--settings.epochs=2"]) == 2
    assert "made of another fine-tuning" in _said(capsys)
    assert main([*words, "--config-file", "uaq-3@8", "--out", trained]) == 2
    assert "made of another fine-tuning" in _said(capsys)


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
