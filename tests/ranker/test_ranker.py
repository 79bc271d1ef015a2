"""The ensemble: it starts from the closed form, corrects it where that helps, and can overfit."""

import dataclasses

import numpy as np
import pytest
import torch
from support.small_rankers import SMALL, fitted, randomized
from support.synthetic_store import synthetic_store

from qsd.ranker.ensemble import Ensemble, Member, share_of
from qsd.ranker.evaluation import compare
from qsd.ranker.metrics import spearman
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target


@pytest.mark.parametrize("probed", [False, True])
def test_training_starts_from_the_closed_form_part(tmp_path, probed):
    store = synthetic_store(tmp_path / "a.h5", 60, 1, probed=probed)
    data = prepare(store, Target("-log(fid)"), folds=3)
    member = Member(SMALL, [data.graph], 1).eval()
    inside = data.training_rows(1)
    member.fit_scales(0, data.targets[inside])
    offsets = member.fit_closed_form(0, data, 1)
    outputs = member(data.graph, data.configs).outputs[:, 0]
    torch.testing.assert_close(outputs[data.test_rows()], offsets[data.test_rows()])
    assert (outputs[inside] != offsets[inside]).all()  # left out, each by itself
    rank = spearman(data.targets[data.test_rows(), 0].numpy(), outputs[data.test_rows()].detach().numpy())
    assert rank > 0.8


def test_labels_of_other_seeds_stand_beside_those_of_the_rankers_own(tmp_path):
    data = prepare(synthetic_store(tmp_path / "a.h5", 120, 1, probed=True), Target("-log(fid)"), folds=2)
    posteriors = fit_posteriors(Ensemble(), data)
    plain = compare(posteriors, data, num_bootstrap=20)
    test = data.test_rows()[:12]
    repeats = torch.full((2, len(data.fold)), torch.nan)
    repeats[0, test] = data.targets[test, 0].exp()  # the same order
    repeats[1, test] = -data.targets[test, 0]  # the opposite one
    report = compare(posteriors, dataclasses.replace(data, repeats=repeats), num_bootstrap=20)
    assert {name: report[name] for name in plain} == plain
    others, own, repeatability = list(report)[len(plain) :]
    assert "labels of other noise seeds, 12 records" in others
    assert repeatability.startswith("repeatability")
    for name in (others, repeatability):
        assert report[name]["spearman"]["value"] == pytest.approx(0)
    predicted = posteriors["target"].posterior(data.configs[test].numpy().astype(np.int8)).mean
    rank = spearman(data.targets[test, 0].numpy(), predicted)
    assert report[own]["spearman"]["value"] == pytest.approx(rank)


def test_a_useless_correction_is_not_believed(tmp_path):
    store = synthetic_store(tmp_path / "a.h5", 60, 1)
    data = prepare(store, Target("-log(fid)"), folds=2)
    torch.manual_seed(0)
    members = fitted(data, [randomized(Member(SMALL, [data.graph], 1)) for _ in range(2)])
    members.calibrate([data])
    assert all(member.graph_share.item() == 0 for member in members)


def test_share_of_a_correction():
    generator = torch.Generator().manual_seed(0)
    correction, noise = torch.randn(2, 400, generator=generator)
    assert share_of(0.6 * correction, correction).item() == pytest.approx(0.6)
    assert share_of(3.0 * correction, correction).item() == 1
    assert share_of(-correction, correction).item() == 0
    assert share_of(correction, torch.zeros(400)).item() == 0
    missing = 0.6 * correction + noise
    by_least_squares = torch.linalg.lstsq(correction[:, None], missing[:, None]).solution
    assert share_of(missing, correction).item() == pytest.approx(by_least_squares.item(), rel=1e-4)
    # 0.05 times as large as the noise is one standard error of 400 records
    believed = [
        share_of(0.05 * correction + noise, correction).item() > 0
        for correction, noise in torch.randn(200, 2, 400, generator=generator)
    ]
    assert sum(believed) == pytest.approx(200 * 0.16, abs=15)  # P(normal > 1)


def test_scales_come_from_training_records(tmp_path):
    store = synthetic_store(tmp_path / "a.h5", 60, 1)
    data = prepare(store, Target("-fid"), [Target("clip")], folds=3)
    member = Member(SMALL, [data.graph], 2)
    inside = data.targets[data.training_rows(1)]
    member.fit_scales(0, inside)
    torch.testing.assert_close(member.target_mean[0], inside.mean(dim=0))
    scaled = member.standardized(0, inside)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.ones(2))
    assert member.target_high.item() == pytest.approx(scaled[:, 0].max().item())
    member.fit_hops(0, data, 1)
    norms = member.network(data.graph, data.configs[data.training_rows(1)]).norms
    torch.testing.assert_close(member.hop_mean[0], norms.mean(dim=1))


def test_can_overfit_twenty_records(tmp_path):
    """A network that cannot memorize a handful of records has a defect somewhere."""
    store = synthetic_store(tmp_path / "a.h5", 60, 1)
    data = prepare(store, Target("-log(fid)"))
    torch.manual_seed(0)
    member = Member(SMALL, [data.graph], 1)
    configs, targets = data.configs[:20], data.targets[:20]
    member.fit_scales(0, targets)
    optimizer = torch.optim.Adam(member.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (member(data.graph, configs).outputs - member.standardized(0, targets)).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
