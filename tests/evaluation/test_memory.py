"""Memory of batches: what fits, and what is said where it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.tiny_pipelines import PROMPTS, dit

import qsd
from qsd.cli.costs import cost_facts, show_cost
from qsd.denoisers.components import denoiser_of
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.evaluation.memory import PeakMeter, largest_batch, usable_bytes
from qsd.labels import estimate
from qsd.labels.estimate import label_cost
from qsd.support.errors import QsdError


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    prompts = str(tmp_path / "prompts.txt")
    return EvaluationSettings(prompts=prompts, num_images=4, steps=1, guidance=1.0, batch_size=2)


def test_the_largest_batch_lies_on_the_line_of_two() -> None:
    assert largest_batch((2, 1200), (4, 1400), 10_000) == 4 + (9000 - 1400) // 100
    assert largest_batch((2, 1200), (4, 1400), 1000) == 1
    assert largest_batch((2, 1200), (4, 1200), 10_000) is None


def test_peaks_are_those_since_the_last() -> None:
    meter = PeakMeter(torch.device("cpu"))
    if meter.read() is None:
        pytest.skip("this system does not reset the peak")
    held = torch.ones(64 << 20, dtype=torch.uint8)
    high = meter.read()
    del held
    meter.read()
    low = meter.read()
    assert high is not None and low is not None and 32 << 20 < high - low < 96 << 20


def test_processes_share_the_memory() -> None:
    one, four = (usable_bytes(torch.device("cpu"), count) for count in (1, 4))
    if one is None or four is None:
        pytest.skip("this system does not tell")
    assert 3 < one / four < 5


def test_a_dry_run_says_what_fits(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([1000, 1100])
    monkeypatch.setattr(PeakMeter, "read", lambda self: next(peaks))
    monkeypatch.setattr(estimate, "usable_bytes", lambda device, processes: 4000 // processes)
    pipe = dit()
    pipe.set_progress_bar_config(disable=True)
    cost = label_cost(pipe, qsd.build_bank(pipe, ["uaq-4"]), tmp_path / "s.h5", settings, 2, workers=2)
    assert cost_facts(cost)["largest_batch"] == 2 + (1800 - 1100) // 100
    out = Console(width=100, record=True, file=(tmp_path / "out.txt").open("w"))
    show_cost(cost, out)
    assert "largest batch that fits: 9 (batch_size is 2)" in out.export_text()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_used_up_memory_names_the_batch_size(
    error: Exception, batch_size: int, settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe: Any = dit()
    pipe.set_progress_bar_config(disable=True)
    settings = EvaluationSettings(**{**vars(settings), "batch_size": batch_size})

    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(denoiser_of(pipe), "forward", failing)
    remedy = "lower batch_size" if batch_size > 1 else "lower height and width"
    with pytest.raises(
        QsdError, match=f"out of memory while drawing, batch_size {batch_size}: .*; .*{remedy}"
    ):
        list(Generator(pipe, settings).batches(0))
