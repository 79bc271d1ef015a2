"""Explanations against closed forms and brute force, and the verb with what it refuses."""

import csv
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from support.synthetic_store import synthetic_header, synthetic_responses, synthetic_store

from qsd.cli import main
from qsd.configs.document import config_to_json, save_config
from qsd.explain import explain
from qsd.explain.explanation import default_config
from qsd.explain.groups import groups_of
from qsd.explain.score import probed_change, score_of
from qsd.explain.shapley import of_squared_length, shapley_values
from qsd.ranker.checkpoint import load_ranker, save_ranker
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.store import Store


@pytest.fixture
def probed(tmp_path):
    return synthetic_store(tmp_path / "probed.h5", num_records=60, num_blocks=2, probed=True)


@pytest.fixture
def labeled(tmp_path):
    return synthetic_store(tmp_path / "labeled.h5", num_records=60, num_blocks=2)


def brute_force_shapley(value, players):
    found = np.zeros(players)
    for order in itertools.permutations(range(players)):
        taken = np.zeros((players + 1, players), dtype=bool)
        for place, player in enumerate(order):
            taken[place + 1 :, player] = True
        found[list(order)] += np.diff(value(taken))
    return found / math.factorial(players)


def test_costs_of_the_squared_length(probed):
    config, _ = default_config(probed)
    found = explain(probed, config)
    change = probed_change(probed)
    chosen = change[np.arange(len(config)), config]
    np.testing.assert_allclose(found.cost_alone, (change**2).sum(-1), rtol=1e-9)
    for layer, option in [(0, 0), (5, 3), (14, 5)]:
        rest = chosen.sum(0) - chosen[layer]
        truth = np.square(rest + change[layer, option]).sum() - np.square(rest).sum()
        assert found.cost_around[layer, option] == pytest.approx(truth)
    np.testing.assert_allclose(
        found.interactions.sum() / 2 + (chosen**2).sum(), np.square(chosen.sum(0)).sum()
    )
    adding, cancelling = found.pairs(3)
    assert all(found.interactions[pair] > 0 for pair in adding)
    assert all(found.interactions[pair] < 0 for pair in cancelling)
    assert found.interactions[adding[0]] == found.interactions.max()
    for groups in found.groups.values():  # Shapley values share out the whole cost
        assert sum(group.shapley for group in groups) == pytest.approx(np.square(chosen.sum(0)).sum())
        assert sum(group.layers for group in groups) == len(config)


def test_shapley_values_exact_and_closed_form():
    parts = np.random.default_rng(0).normal(size=(5, 3))

    def value(coalitions):
        return np.square(coalitions.astype(float) @ parts).sum(axis=1)

    found, error = shapley_values(value, 5)
    np.testing.assert_allclose(found, brute_force_shapley(value, 5))
    np.testing.assert_allclose(found, of_squared_length(parts))
    assert not error.any()


def test_shapley_values_sampled_within_their_error():
    parts = np.random.default_rng(1).normal(size=(14, 3))

    def value(coalitions):
        return np.sqrt(np.square(coalitions.astype(float) @ parts).sum(axis=1))

    found, error = shapley_values(value, 14)
    assert found.sum() == pytest.approx(value(np.ones((1, 14), bool))[0])
    other, other_error = shapley_values(value, 14, seed=1)
    assert (np.abs(found - other) < 5 * np.hypot(error, other_error) + 1e-12).all()


def test_labels_alone_find_the_layers_that_matter(labeled):
    config, _ = default_config(labeled)
    found = explain(labeled, config, label="-log(fid)")
    assert found.reference == "each layer's largest option" and found.interactions is None
    truth = np.square(synthetic_responses(labeled.header).spaces["latents"]).sum(-1)
    spread = np.nanmax(found.cost_around, 1) - np.nanmin(found.cost_around, 1)
    assert np.argmax(spread) in np.argsort(-np.ptp(truth, axis=1))[:3]


@pytest.fixture
def ranker(tmp_path, probed):
    data = dataclasses.replace(prepare(probed, Target("-log(fid)")), predicted_labels=("fid",))
    posteriors = fit_posteriors(Ensemble(), data)
    folder = tmp_path / "ranker"
    settings = NetworkSettings(closed_form="responses")
    save_ranker(folder, Ensemble(), [data.header], "-log(fid)", [posteriors], network=settings)
    return load_ranker(folder)


def test_a_process_explains_around_a_config(probed, ranker):
    config, _ = default_config(probed)
    found = explain(probed, config, ranker=ranker)
    one, other = config.copy(), config.copy()
    one[4], other[4] = 0, 3
    both = ranker.posterior(np.stack([one, other])).mean
    assert found.cost_around[4, 0] - found.cost_around[4, 3] == pytest.approx(both[1] - both[0])
    assert np.nanmin(found.cost_alone) == 0
    assert found.reference == "full precision"
    by_fid = score_of(probed, ranker, "fid")
    assert by_fid.name == "minus fid"
    np.testing.assert_allclose(by_fid(config[None]), -ranker.posterior(config[None], label="fid").mean)


def test_groups(probed):
    layers = probed.header.layers
    assert list(groups_of(layers, "block")) == ["outside", "0", "1"]
    for kind in ("role", "block", "stage"):
        together = np.concatenate(list(groups_of(layers, kind).values()))
        assert sorted(together) == list(range(len(layers)))


def test_verb(probed, tmp_path, capsys):
    config, _ = default_config(probed)
    header = probed.header
    names, options = [layer.name for layer in header.layers], [str(option) for option in header.options]
    file = tmp_path / "best.json"
    save_config(file, config_to_json(config, names, options, header.denoiser, header.options_hash))
    out = tmp_path / "out"
    words = ["explain", "--store", str(probed.path), "--around", str(file), "--out", str(out)]
    words += ["--plots", "false"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "costliest layers" in printed and "add up" in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    with (out / "layers.csv").open() as rows:
        table = list(csv.DictReader(rows))
    assert len(table) == len(document["layers"]) == header.available.sum()
    assert sum(int(row["chosen"]) for row in table) == len(names)
    assert document["score"] == "minus mean square change of the images"


def test_a_bare_label_counts_where_smaller_is_better(labeled, tmp_path, capsys):
    words = ["explain", "--store", str(labeled.path), "--out", str(tmp_path / "x"), "--plots=false", "--json"]
    costs = []
    for label in ("fid", "-fid"):
        assert main([*words, "--label", label]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["score"] == "-fid"
        costs.append([row["cost_around"] for row in document["layers"]])
    assert costs[0] == costs[1]


def refused(words, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_refusals(probed, labeled, ranker, tmp_path, capsys):
    empty = Store.create(tmp_path / "empty.h5", synthetic_header(2)).path
    where = ["--out", str(tmp_path / "out")]
    verb = ["explain", "--store"]
    assert "neither probed nor labeled" in refused([*verb, str(empty), *where], capsys)
    assert "holds no labels" in refused([*verb, str(empty), *where, "--label", "fid"], capsys)
    assert "no such config file" in refused([*verb, str(probed.path), *where, "--around", "no.json"], capsys)
    assert "has no 'psnr'" in refused([*verb, str(labeled.path), *where, "--label", "psnr"], capsys)
    few = Store.create(tmp_path / "few.h5", labeled.header, labeled.records.select(np.arange(5))).path
    assert "label at least" in refused([*verb, str(few), *where], capsys)
    by = ["--ranker", str(ranker.folder)]
    assert "does not predict 'psnr'" in refused(
        [*verb, str(probed.path), *where, *by, "--label", "psnr"], capsys
    )
    other = synthetic_store(tmp_path / "other.h5", num_records=20, num_blocks=3, seed=1).path
    assert "trained for" in refused([*verb, str(other), *where, *by], capsys)
    assert not (tmp_path / "out").exists()


def test_a_config_with_an_option_that_a_layer_lacks(probed, tmp_path, capsys):
    header = probed.header
    num_bytes = header.num_bytes.copy()
    num_bytes[0, 0] = -1
    error = np.where(num_bytes < 0, np.nan, header.relative_error)
    masked = dataclasses.replace(header, num_bytes=num_bytes, relative_error=error)
    path = Store.create(tmp_path / "masked.h5", masked).path
    names, options = [layer.name for layer in header.layers], [str(option) for option in header.options]
    file = tmp_path / "bad.json"
    config = np.zeros(len(names), np.int8)
    save_config(file, config_to_json(config, names, options, header.denoiser, header.options_hash))
    words = ["explain", "--store", str(path), "--out", str(tmp_path / "out")]
    assert "cannot take" in refused([*words, "--around", str(file)], capsys)
    assert main([*words, "--json", "--plots", "false"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == (num_bytes >= 0).sum()
