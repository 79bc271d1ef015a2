"""Devices that are not there, checkpoints that are none: one line each, exit code 2, nothing written."""

import re
from pathlib import Path

import pytest
import torch

from qsd.cli import main

FIT = ["fit", "--config", "dit.yaml"]


def refusal(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("qsd: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "words",
    [
        ["bank", "--pipeline", "checkpoints/digits-dit", "--out", "b.safetensors", "--device", "cuda"],
        ["search", "--bank", "b.safetensors", "--ranker", "r", "--out", "o", "--device", "cuda"],
    ],
)
def test_a_gpu_that_is_not_there(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "PyTorch finds no CUDA device here; leave --device out" in refusal(capsys, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FIT, "--out", str(tmp_path / "r"), "--trainer.accelerator", "gpu"]
    assert refusal(capsys, words).startswith("qsd: trainer: No supported gpu backend found")


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_no_checkpoint(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junk.ckpt").write_text("junk\n")
    words = [
        verb,
        *FIT[1:],
        "--out",
        str(tmp_path / "r"),
        "--trainer.default_root_dir",
        str(tmp_path / "logs"),
    ]
    junk = refusal(capsys, [*words, "--ckpt_path", str(tmp_path / "junk.ckpt")])
    assert "junk.ckpt: no checkpoint, or damaged" in junk
    assert "absent.ckpt: no such" in refusal(capsys, [*words, "--ckpt_path", str(tmp_path / "absent.ckpt")])
    folder = refusal(capsys, [*words, "--ckpt_path", str(tmp_path)])
    assert "a folder; name a checkpoint, such as the last.ckpt" in folder


def test_a_folder_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a folder, not a store; name the .h5 file" in refusal(
        capsys, ["store", "info", str(tmp_path)]
    ).replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["fit", "--config", "typo.yaml"],
            r"does not accept option 'trainer.max_epochz' \(given on the command line or in .*typo\.yaml\)",
        ),
        (["label", "--config", "typo2.yaml"], r"stepz.* \(given on the command line or in .*typo2\.yaml\)"),
        (["search", "--bankk", "x"], "unrecognized arguments: --bankk x; `qsd search --help` lists"),
        (["search", "--max-bits", "few"], "max_bits"),
    ],
)
def test_what_is_mistyped_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.yaml").write_text("base: dit.yaml\ntrainer: {max_epochz: 3}\n")
    (tmp_path / "typo2.yaml").write_text("evaluation: {stepz: 3}\n")
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and printed[0].startswith("qsd: ")
    assert re.search(message, printed[0])


def test_a_folder_of_something_else_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "front.json").write_text("{}")
    words = ["compress", "checkpoints/digits-dit", "--max-bits", "4", "--out", str(tmp_path)]
    assert "holds files of something else; name another folder as --out" in refusal(capsys, words)
    assert [file.name for file in tmp_path.iterdir()] == ["front.json"]
