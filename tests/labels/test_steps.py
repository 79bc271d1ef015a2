"""Groups of steps alone: what is drawn is what schedules draw, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from qsd.api import build_bank
from qsd.bank import FULL_PRECISION
from qsd.configs.activations import uniform_activations
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Measurer
from qsd.labels.steps import plot_steps, probe_steps
from qsd.support.errors import QsdError

PIPELINE = "checkpoints/digits-dit"
SETTINGS = EvaluationSettings(
    prompts="datasets/digits/class_prompts.txt", num_images=4, steps=3, guidance=1.0, batch_size=4
)


def test_each_group_alone(tmp_path: Path) -> None:
    pipe = load_pipeline(PIPELINE)
    bank = build_bank(pipe, ["uaq-4"], activations=["16", "4"])
    found = probe_steps(pipe, bank, SETTINGS, 2)
    assert found.ranges in (((0, 1), (1, 3)), ((0, 2), (2, 3)))
    assert found.options == ("4",) and (found.latent_mse > 0).all()
    full = np.full(len(bank.layers), FULL_PRECISION, np.int8)
    everywhere = uniform_activations(bank.activation_options, bank.macs, "4")
    whole = probe_steps(pipe, bank, SETTINGS, 1).latent_mse[0, 0] * 3
    measured = Measurer(pipe, bank, SETTINGS).measure(full, 0, everywhere).labels["latent_mse"]
    assert whole == pytest.approx(measured)
    plot_steps(found, tmp_path / "steps.png", "digits")
    assert (tmp_path / "steps.png").stat().st_size > 5000


def test_a_bank_without_activation_options_is_refused() -> None:
    pipe = load_pipeline(PIPELINE)
    with pytest.raises(QsdError, match="no activation options but 16"):
        probe_steps(pipe, build_bank(pipe, ["uaq-4"]), SETTINGS, 2)
