"""Features of real images are streamed, kept under a hash of content, and verified."""

import logging
import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qsd.evaluation import EvaluationSettings, real_features
from qsd.evaluation.real_features import real_features as features_of
from qsd.support.user_cache import VARIABLE

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Mean colors, and how many images it has seen."""

    seen = 0

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.seen += len(images)
        return torch.stack([image.float().mean(dim=(1, 2)) for image in images]), None


@pytest.fixture(autouse=True)
def _same_extractor(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(real_features, "extractor_content", lambda name, features: {"class": name})


def _settings(folder: Path, features: str = "mean") -> EvaluationSettings:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        pixels = np.full((4, 4, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return EvaluationSettings(prompts="p.txt", reference=str(folder), features=features, batch_size=2)


EXPECTED = torch.tensor([[0.0] * 3, [10.0] * 3, [20.0] * 3])


def test_features_are_taken_once_for_each_content(tmp_path: Path) -> None:
    settings, extractor = _settings(tmp_path / "a"), Counting()
    for place in ("a", "elsewhere"):
        assert torch.equal(features_of(_settings(tmp_path / place), extractor, CPU), EXPECTED)
    assert extractor.seen == 3
    features_of(_settings(tmp_path / "a", features="other"), extractor, CPU)
    assert extractor.seen == 6
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / "a" / "0.png")
    assert features_of(settings, extractor, CPU)[0, 0] == 7
    assert extractor.seen == 9


def test_damaged_ones_are_taken_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extractor = Counting()
    features_of(_settings(tmp_path / "a"), extractor, CPU)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(features_of(_settings(tmp_path / "a"), extractor, CPU), EXPECTED)
    assert "damaged" in caplog.text and extractor.seen == 6
    assert torch.equal(features_of(_settings(tmp_path / "a"), extractor, CPU), EXPECTED)
    assert extractor.seen == 6


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(features_of(_settings(tmp_path / "a"), Counting(), CPU), EXPECTED)
    assert "are not kept" in caplog.text


def _little_memory(folder: str, answers: "multiprocessing.Queue[str]") -> None:
    torch.set_num_threads(1)
    (used,) = (
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + 160 * 2**20, resource.RLIM_INFINITY))
    settings = EvaluationSettings(prompts="p.txt", reference=folder, features="mean", batch_size=4)
    try:
        answers.put(str(tuple(features_of(settings, Counting(), CPU).shape)))
    except BaseException as error:
        answers.put(repr(error))


def test_many_images_need_the_memory_of_a_batch(tmp_path: Path) -> None:
    """50,000 images of 512 pixels would be 39 GB; 500 are 393 MB, read here within 160 MiB."""
    Image.fromarray(np.zeros((512, 512, 3), np.uint8)).save(tmp_path / "0.png")
    for number in range(1, 500):
        (tmp_path / f"{number}.png").symlink_to(tmp_path / "0.png")
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_little_memory, args=(str(tmp_path), answers))
    child.start()
    assert answers.get(timeout=120) == "(500, 3)"
    child.join()
