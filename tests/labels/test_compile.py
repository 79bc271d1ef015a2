"""Labels with a compiled denoiser: every config's own weights, a store of its own, nothing left behind."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_pipelines import PROMPTS, dit

import qsd
from qsd.denoisers.components import denoiser_of
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.content import settings_content
from qsd.labels import Job, Measurer, Prober
from qsd.labels.probing import Cells
from qsd.labels.shares import time_shares
from qsd.support.errors import QsdError


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return EvaluationSettings(
        prompts=str(tmp_path / "prompts.txt"), num_images=2, steps=2, guidance=1.0, batch_size=2, compile=True
    )


def test_compiled_labels(settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    pipe = dit()
    bank = qsd.build_bank(pipe, ["uaq-2", "uaq-4"])
    plain = dataclasses.replace(settings, compile=False)
    jobs = [Job(option, np.full(len(bank.layers), option, np.int8), 0) for option in range(2)]
    expected = {job.index: labels for job, labels, _ in Measurer(pipe, bank, plain).run(jobs)}
    measurer = Measurer(pipe, bank, settings)
    assert expected[0]["psnr"] < expected[1]["psnr"] < 100
    for order in (jobs, jobs[::-1]):
        for job, labels, _ in measurer.run(order):
            assert labels == pytest.approx(expected[job.index], rel=1e-4)
    assert measurer.full_precision(0).labels["psnr"] == 100
    assert time_shares(measurer, jobs[0])["denoiser"] > 0
    assert "forward" not in vars(denoiser_of(pipe))
    cells = [Cells(0, (0, 1))]
    for (_, found), (_, wanted) in zip(
        Prober(pipe, bank, settings).run(cells), Prober(pipe, bank, plain).run(cells), strict=True
    ):
        np.testing.assert_allclose(found["latents"], wanted["latents"], atol=1e-4)


def test_a_store_is_compiled_or_not(settings: EvaluationSettings) -> None:
    plain = settings_content(dataclasses.replace(settings, compile=False))
    assert "compile" not in plain  # as in stores that were begun before there was a choice
    assert settings_content(settings) == plain | {"compile": True}


def test_simulated_activations_are_not_compiled(settings: EvaluationSettings) -> None:
    pipe = dit()
    bank = qsd.build_bank(pipe, ["uaq-4"], activations=["16", "8"])
    with pytest.raises(QsdError, match="compile: activations are simulated by hooks"):
        Measurer(pipe, bank, settings)
