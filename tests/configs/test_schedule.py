"""Schedules and activation vectors: documents, draws, and what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.options import SIX

from qsd.configs.activations import activations_from_json, sample_activations
from qsd.configs.sampling import sample_configs
from qsd.configs.schedule import Schedule, even_ranges, load_schedule, save_schedule
from qsd.quantizers.activations import parse_activations
from qsd.support.errors import QsdError

LAYERS = ["a", "b"]
NAMES = ["16", "8", "4"]
DENOISER = {"class": "X", "weights_hash": "1"}


def test_documents_come_back(tmp_path: Path) -> None:
    schedule = Schedule(((0, 2), (2, 5)), np.array([[0, 1], [2, 2]], np.int8))
    save_schedule(tmp_path / "s.json", schedule, LAYERS, NAMES, DENOISER)
    read = load_schedule(tmp_path / "s.json", LAYERS, NAMES, DENOISER)
    assert read.ranges == schedule.ranges and np.array_equal(read.activations, schedule.activations)
    assert [read.at(step).tolist() for step in range(5)] == [[0, 1]] * 2 + [[2, 2]] * 3
    assert read.shares().tolist() == [0.4, 0.6]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([[0, 2], [3, 5]], "steps 2 to 2 have no options"),
        ([[1, 5], [5, 6]], "steps 0 to 0 have no options"),
        ([[0, 3], [2, 5]], "steps 2 to 2 are in two ranges"),
        ([[0, 2], [2, 2]], "has no step"),
        ([[0, 2], "all"], "write .first step"),
        ([], "no ranges"),
    ],
)
def test_gaps_and_overlaps_are_refused(tmp_path: Path, ranges: list, message: str) -> None:
    save_schedule(
        tmp_path / "s.json", Schedule(((0, 1),), np.zeros((1, 2), np.int8)), LAYERS, NAMES, DENOISER
    )
    document = json.loads((tmp_path / "s.json").read_text())
    layers = document["groups"][0]["activations"]
    document["groups"] = [{"steps": steps, "activations": layers} for steps in ranges]
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(QsdError, match=f"s.json: .*{message}"):
        load_schedule(tmp_path / "s.json", LAYERS, NAMES, DENOISER)


def test_options_of_another_layer_set_are_refused(tmp_path: Path) -> None:
    schedule = Schedule(((0, 1),), np.zeros((1, 2), np.int8))
    save_schedule(tmp_path / "s.json", schedule, ["a", "c"], NAMES, DENOISER)
    with pytest.raises(QsdError, match="layer 'c' is not in this denoiser"):
        load_schedule(tmp_path / "s.json", LAYERS, NAMES, DENOISER)
    with pytest.raises(QsdError, match=r"config\.json: layer 'b' has no option"):
        activations_from_json({"activations": {"a": "8"}}, LAYERS, parse_activations(NAMES), "config.json")
    assert activations_from_json({}, LAYERS, parse_activations(["8"]), "old.json").tolist() == [0, 0]


def test_even_ranges_differ_by_one_at_most() -> None:
    for steps in range(1, 30):
        for groups in range(1, steps + 1):
            lengths = [stop - start for start, stop in even_ranges(steps, groups)]
            assert sum(lengths) == steps and max(lengths) - min(lengths) <= 1
    with pytest.raises(QsdError, match="5 groups of 4 steps"):
        even_ranges(4, 5)


def test_draws_depend_on_seed_and_position_alone() -> None:
    options = parse_activations(["16", "8", "6", "4", "8h"])
    drawn = sample_activations(options, np.ones(30), 400, seed=3)
    assert np.array_equal(drawn[17:20], sample_activations(options, np.ones(30), 3, seed=3, start=17))
    assert np.array_equal(sample_activations(options[:1], np.ones(30), 5, seed=3), np.zeros((5, 30)))
    bits = np.array([option.bits for option in options])[drawn]
    spread = bits.mean(axis=1)
    assert spread.min() < 5 and spread.max() > 15
    assert set(np.unique(drawn)) == set(range(5))


def test_the_weights_stream_does_not_know_of_activations() -> None:
    configs = sample_configs(SIX, 12, 3, seed=0)
    assert configs[0].tolist() == [4, 4, 2, 3, 1, 2, 3, 2, 3, 3, 4, 1]
