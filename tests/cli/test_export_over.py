"""An export over an earlier one: the same is written again, another is kept."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from qsd.api import build_bank
from qsd.cli import main
from qsd.denoisers.pipeline import load_pipeline
from qsd.support.paths import find

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


def test_another_denoiser_and_a_damaged_export_are_kept(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--pipeline", PIPELINE, "--bank", str(bank), "--config-file", "uaq-4"]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out)]) == 0
    shutil.copytree(find(PIPELINE), tmp_path / "tuned")
    (weights,) = (tmp_path / "tuned" / "transformer").glob("*.safetensors")
    tensors = load_file(weights)
    save_file(tensors | {"proj_out_2.weight": 2 * tensors["proj_out_2.weight"]}, weights, {"format": "pt"})
    build_bank(load_pipeline(str(tmp_path / "tuned")), ["uaq-3", "uaq-4"]).save(
        tmp_path / "tuned.safetensors"
    )
    tuned = ["export", "--pipeline", str(tmp_path / "tuned"), "--bank", str(tmp_path / "tuned.safetensors")]
    assert main([*tuned, "--config-file", "uaq-4", "--out", str(out)]) == 2
    assert "made of another denoiser" in _said(capsys)
    file = out / "transformer" / "config.json"
    document = json.loads(file.read_text())
    del document["quantization_config"]["layers"]
    file.write_text(json.dumps(document))
    assert main([*words, "--out", str(out)]) == 2
    error = _said(capsys)
    assert "config.json" in error
    assert "or replace" in error and "with --overwrite" in error
    assert main([*words, "--out", str(out), "--overwrite"]) == 0


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
