"""Stores with activations on a shipped miniature: records, probes, calibration, and going on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qsd.api import build_bank, label, probe
from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.configs.activations import sample_activations
from qsd.configs.sampling import sample_configs
from qsd.configs.schedule import Schedule
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.calibration import calibrate
from qsd.evaluation.generate import Generator
from qsd.labels import Measurer
from qsd.labels.measurer import Job
from qsd.quantizers.activations import parse_activations
from qsd.store import Store
from qsd.support.errors import QsdError

PIPELINE = "checkpoints/digits-dit"
SETTINGS = EvaluationSettings(
    prompts="datasets/digits/class_prompts.txt", num_images=4, steps=2, guidance=1.0, batch_size=4
)
OPTIONS = ["uaq-4"]


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(load_pipeline(PIPELINE), OPTIONS, activations=["16", "8", "4t"])


def test_records_carry_the_activations_that_were_measured(bank: Bank, tmp_path: Path) -> None:
    pipe, path = load_pipeline(PIPELINE), tmp_path / "s.h5"
    for wanted in (1, 2):  # goes on
        label(pipe, bank, path, num_configs=wanted, evaluator=SETTINGS, config_seed=5)
    store = Store.open(path)
    assert store.header.activation_options == ("16", "8", "4t")
    expected = sample_activations(bank.activation_options, bank.macs, 2, 5)
    assert np.array_equal(store.records.activation, expected)
    assert np.array_equal(store.records.config, sample_configs(bank.options, len(bank.layers), 2, 5))
    measurer = Measurer(pipe, bank, SETTINGS)
    jobs = [Job(0, store.records.config[0], 0, expected[0]), Job(0, store.records.config[0], 0)]
    (_, rounded, _), (_, plain, _) = measurer.run(jobs)
    assert store.values("latent_mse")[0] == rounded["latent_mse"] > plain["latent_mse"]


def test_a_schedule_of_more_steps_than_are_drawn_is_refused(bank: Bank) -> None:
    measurer, layers = Measurer(load_pipeline(PIPELINE), bank, SETTINGS), len(bank.layers)
    vectors = np.stack([np.full(layers, option, np.int8) for option in (1, 0)])
    weights = np.zeros(layers, np.int8)
    measurer.measure(weights, 0, Schedule(((0, 1), (1, 2)), vectors))
    with pytest.raises(QsdError, match="is for 3 steps, and the pipeline takes another number"):
        measurer.measure(weights, 0, Schedule(((0, 1), (1, 3)), vectors))


def test_a_store_grows_by_the_activation_options_of_a_bank(bank: Bank, tmp_path: Path) -> None:
    pipe, path = load_pipeline(PIPELINE), tmp_path / "s.h5"
    label(pipe, build_bank(pipe, OPTIONS), path, num_configs=1, evaluator=SETTINGS)
    assert Store.open(path).header.activation_options == ("16",)
    grown = label(pipe, bank, path, num_configs=2, evaluator=SETTINGS)
    assert grown.header.activation_options == tuple(map(str, bank.activation_options))
    assert not grown.records.activation[0].any()  # what was labeled before has 16 bits everywhere
    assert grown.records.activation[1].any()


def test_probes_measure_activation_options_like_weights(tmp_path: Path) -> None:
    pipe = load_pipeline(PIPELINE)
    bank = build_bank(pipe, OPTIONS, activations=["16", "4"])
    probed = probe(pipe, bank, tmp_path / "s.h5", evaluator=SETTINGS, num_images=4)
    spaces = Store.open(tmp_path / "s.h5").header.responses.spaces
    assert spaces["latents"].shape[:2] == (len(bank.layers), 2)
    assert np.array_equal(spaces["latents"], probed.header.responses.spaces["latents"])

    def draw(layer: int) -> torch.Tensor:
        activations = np.zeros(len(bank.layers), np.int8)
        activations[layer] = 1
        table = calibrate(pipe, denoiser_of(pipe), bank.layers, bank.activation_options, SETTINGS)
        with Applier(bank, denoiser_of(pipe), table) as applier, torch.inference_mode():
            applier.apply(np.full(len(bank.layers), FULL_PRECISION, np.int8), activations)
            return torch.cat([latents for _, latents, _ in Generator(pipe, SETTINGS).batches(0)])

    full = torch.cat([latents for _, latents, _ in Generator(pipe, SETTINGS).batches(0)])
    lengths = np.square(spaces["latents"][:, 1]).sum(-1)
    first, last = 3, len(bank.layers) - 1
    ratio = [float((draw(layer) - full).square().mean()) for layer in (first, last)]
    assert lengths[first] > 0 and lengths[last] > 0
    assert (lengths[first] > lengths[last]) == (ratio[0] > ratio[1])


def test_ranges_are_those_of_inputs_while_full_precision_draws(bank: Bank) -> None:
    pipe = load_pipeline(PIPELINE)
    layer = next(layer for layer in bank.layers if layer.role == "ff.in")
    seen: list[torch.Tensor] = []
    module = denoiser_of(pipe).get_submodule(layer.module)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    table = calibrate(pipe, denoiser_of(pipe), bank.layers, bank.activation_options, SETTINGS)
    handle.remove()
    values = torch.cat(seen)
    assert torch.equal(table.ranges[layer.name].low, values.amin(0))
    assert torch.equal(table.ranges[layer.name].high, values.amax(0))
    assert calibrate(pipe, denoiser_of(pipe), bank.layers, parse_activations(["8"]), SETTINGS).ranges == {}


def test_a_bank_keeps_its_activation_options(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path / "b.safetensors")
    loaded = Bank.load(tmp_path / "b.safetensors")
    assert loaded.activation_options == bank.activation_options
    assert np.array_equal(loaded.macs, bank.macs) and loaded.macs.min() > 0
