"""`--dtype` of the verbs that draw or measure, typed on the smallest shipped pipeline."""

import json
from pathlib import Path

import pytest

from qsd.cli import main

PIPELINE = ["--pipeline", "checkpoints/digits-dit"]
HALVES = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank, an export of it, and prompts."""
    folder = tmp_path_factory.mktemp("dtypes")
    (folder / "prompts.txt").write_text("a zero\na one\na two\na three\n" * 8)
    bank, export = str(folder / "bank.safetensors"), str(folder / "export")
    assert main(["bank", *PIPELINE, "--out", bank, "--options", "[uaq-3, uaq-4]"]) == 0
    assert main(["export", *PIPELINE, "--bank", bank, "--config-file", "uaq-4", "--out", export]) == 0
    return folder


def drawing(place: Path, **changes: object) -> list[str]:
    chosen = {"prompts": place / "prompts.txt", "num_images": 4, "steps": 2, "guidance": 1.0} | changes
    return [f"--evaluation.{name}={value}" for name, value in chosen.items()]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    code = main([*words, "--json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


@HALVES
def test_search(place: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "--bank", str(place / "bank.safetensors"), "--out", str(tmp_path / "front")]
    words += ["--method", "orthogonality", "--max-bits", "3.7", *PIPELINE, "--dtype", dtype]
    words += ["--orthogonality.steps=2"]
    found = printed(capsys, *words, *drawing(place))
    assert all(member["avg_bits"] <= 3.7 for member in found["members"])


@HALVES
def test_search_that_measures(
    place: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, store = ["--bank", str(place / "bank.safetensors")], ["--store", str(tmp_path / "store.h5")]
    half, drawn = [*PIPELINE, "--dtype", dtype], drawing(place)
    ranker = str(tmp_path / "ranker")
    assert main(["label", *half, *bank, *store, "--num-configs", "24", *drawn]) == 0
    fit = ["fit", f"--data.stores=[{store[1]}]", "--data.target=psnr", "--data.folds=2", "--out", ranker]
    fit += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    assert main([*fit, "--model.network.width=8", "--model.network.depth=1"]) == 0
    words = ["search", *bank, *store, "--ranker", ranker, "--out", str(tmp_path / "front"), *half, *drawn]
    words += ["--max-bits", "3.7", "--verify", "1", "--verify_seeds", "1"]
    words += ["--settings.generations=2", "--settings.population=8"]
    assert main([word if word != dtype else "float32" for word in words]) == 2
    assert "dtype" in capsys.readouterr().err
    assert printed(capsys, *words)["members"]


@HALVES
def test_finetune(place: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "finetune",
        "--export",
        str(place / "export"),
        *PIPELINE,
        "--out",
        str(tmp_path / "tuned"),
        "--dtype",
        dtype,
    ]
    settings = [
        "--settings.images=4",
        "--settings.validation_images=4",
        "--settings.epochs=1",
        "--settings.batch_size=2",
    ]
    found = printed(capsys, *words, *settings, *drawing(place))
    assert 0 < found["loss_after"] < float("inf")


@HALVES
def test_profile(place: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "--export", str(place / "export"), "--against", PIPELINE[1], "--dtype", dtype]
    found = printed(capsys, *words, "--batch-sizes", "[1]", "--steps", "0", "--repeats", "1")
    assert found["workload"]["dtype"] == dtype
    assert found["costs"]


@HALVES
def test_compress(place: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", PIPELINE[1], "--options", "[uaq-3, uaq-4]", "--max-bits", "3.6", "--dtype", dtype]
    found = printed(capsys, *words, "--out", str(tmp_path / "small"), *drawing(place))
    assert found["rows"][-1]["avg_bits"] <= 3.6
    assert found["rows"][0]["latent_mse"] == 0
