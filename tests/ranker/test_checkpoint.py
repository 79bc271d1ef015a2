"""A ranker on disk: what comes back, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from support.small_rankers import SMALL, fitted, randomized
from support.synthetic_store import synthetic_store

from qsd.quantizers.options import Option
from qsd.ranker.additive import fit_additive_model
from qsd.ranker.checkpoint import load_ranker, save_ranker
from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.metrics import spearman
from qsd.ranker.posteriors import TARGET, fit_posteriors
from qsd.ranker.predictors import EnsemblePredictor
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.support.documents import with_hash
from qsd.support.errors import QsdError


@pytest.fixture
def saved(tmp_path, header, graph):
    torch.manual_seed(0)
    members = Ensemble(randomized(Member(SMALL, [graph], 1)) for _ in range(3))
    for member in members:
        member.fit_scales(0, torch.randn(20, 1) * 30 - 60)
    posteriors = {TARGET: EnsemblePredictor(members.eval(), graph, 0, 2.0, 0.25)}
    save_ranker(tmp_path / "ranker", members, [header], "-fid", [posteriors], metrics={"a": 1})
    return tmp_path / "ranker", members


def test_a_saved_ranker_predicts_the_same(saved, header, graph, configs):
    folder, members = saved
    ranker = load_ranker(folder)
    found = ranker.posterior(configs.numpy().astype(np.int8))
    with torch.no_grad():
        scores = members.score(graph, configs).double()
    np.testing.assert_allclose(found.mean, scores.mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(found.variance, 2 * scores.var(dim=0, correction=0) + 0.25, rtol=1e-4)
    assert (ranker.target, ranker.metrics) == ("-fid", {"a": 1})
    assert ranker.header.graph == header.graph
    assert ranker.header.layers == header.layers
    ranker.check(header, "store.h5")


def test_a_saved_ranker_remembers_its_training_records(tmp_path):
    data = prepare(synthetic_store(tmp_path / "a.h5", 60, 1, probed=True), Target("-log(fid)"), folds=2)
    members = fitted(data, [Member(SMALL, [data.graph], 1) for _ in range(2)])
    for member in members:
        member.graph_share.zero_()
    posteriors = fit_posteriors(members.eval(), data)
    save_ranker(tmp_path / "ranker", members, [data.header], "-log(fid)", [posteriors])
    ranker = load_ranker(tmp_path / "ranker")
    test = data.test_rows()
    configs = data.configs[test].numpy().astype(np.int8)
    mean = ranker.posterior(configs).mean
    for label in (None, "fid", "clip"):
        expected, found = (
            posteriors[label or TARGET].posterior(configs),
            ranker.posterior(configs, label=label),
        )
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
        np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-5)
    assert ranker.labels == ["fid", "clip"]
    with pytest.raises(QsdError, match="does not predict 'kid', only fid, clip"):
        ranker.posterior(configs, label="kid")
    assert spearman(data.targets[test, 0].numpy(), mean) > 0.8
    counts = [member.get_buffer("known_0").shape[1] for member in ranker.members]
    assert counts == [len(data.training_rows(index)) for index in range(2)]
    with torch.no_grad():
        whole = members[0](data.graph, data.configs[test]).outputs[:, 0]
    torch.testing.assert_close(whole, members[0].closed_form(data.configs[test]))


def test_a_trained_ranker_of_responses_explains_by_layer(tmp_path):
    data = prepare(synthetic_store(tmp_path / "a.h5", 60, 1, probed=True), Target("-log(fid)"), folds=2)
    members = fitted(data, [Member(SMALL, [data.graph], 1) for _ in range(2)])
    assert all(member.responds(0) and not member.contributions().any() for member in members)
    members.calibrate([data])
    for index, member in enumerate(members):
        inside = data.training_rows(index)
        target = member.standardized(0, data.targets[inside])[:, 0].double().numpy()
        expected = fit_additive_model(data.header, data.configs[inside].numpy(), target).table
        np.testing.assert_allclose(member.contributions(), expected, rtol=1e-5, atol=1e-6)


def test_saving_again_leaves_no_old_members(saved, header):
    folder, members = saved
    names = ["member-0.safetensors", "posterior-0.safetensors", "ranker.json"]
    (folder / "notes.txt").touch()
    for numbers in ({"metrics": {"a": 1}, "calibration": {"b": 2}}, {}):
        save_ranker(folder, Ensemble([members[0]]), [header], "-fid", [{}], **numbers)
        made = [*names, "notes.txt", *(f"{name}.json" for name in numbers)]
        assert sorted(file.name for file in folder.iterdir()) == sorted(made)


def test_foreign_files_are_refused(saved, header):
    ranker = load_ranker(saved[0])
    options = (*header.options[:5], Option.parse("uaq-2"))
    with pytest.raises(QsdError, match=r"b\.h5: its options are .*uaq-2, but the ranker"):
        ranker.check(dataclasses.replace(header, options=options), "b.h5")
    other = {**header.denoiser, "weights_hash": "f" * 32}
    with pytest.raises(QsdError, match=r"b\.h5: made for Synthetic with weights ffffffff"):
        ranker.check(dataclasses.replace(header, denoiser=other), "b.h5")
    with pytest.raises(QsdError, match="not for Synthetic with weights ffffffff"):
        load_ranker(saved[0], other)


def test_bad_configs_are_refused(saved, configs):
    ranker = load_ranker(saved[0])
    for bad in (configs.numpy()[:, 1:], configs.numpy() + 6, configs.numpy() - 6):
        with pytest.raises(QsdError, match="do not fit"):
            ranker.posterior(bad.astype(np.int8))


def test_no_configs(saved, header):
    found = load_ranker(saved[0]).posterior(np.zeros((0, len(header.layers)), np.int8))
    assert found.mean.shape == found.variance.shape == (0,)


def test_damaged_rankers(saved, tmp_path):
    folder = saved[0]
    document = json.loads((folder / "ranker.json").read_text())
    with pytest.raises(QsdError, match="no such file"):
        load_ranker(tmp_path / "nothing")
    with pytest.raises(QsdError, match=r"holds no ranker\.json"):
        load_ranker(tmp_path)
    (folder / "ranker.json").write_text(json.dumps({**document, "target": "-kid"}))
    with pytest.raises(QsdError, match="differs from the hash"):
        load_ranker(folder)
    (folder / "ranker.json").write_text(json.dumps(with_hash({**document, "feature_version": "0-old"})))
    with pytest.raises(QsdError, match="feature_version 0-old, but this qsd has"):
        load_ranker(folder)
    (folder / "ranker.json").write_text(json.dumps(document)[:100])
    with pytest.raises(QsdError, match="truncated or damaged"):
        load_ranker(folder)
    (folder / "ranker.json").write_text(json.dumps(document))
    member = (folder / "member-1.safetensors").read_bytes()
    (folder / "member-1.safetensors").write_bytes((folder / "member-0.safetensors").read_bytes())
    with pytest.raises(QsdError, match=r"member-1\.safetensors: belongs to another ranker"):
        load_ranker(folder)
    (folder / "member-1.safetensors").write_bytes(member[:-3] + b"abc")
    with pytest.raises(QsdError, match=r"member-1\.safetensors: tensor .* differs from its hash"):
        load_ranker(folder)
    (folder / "member-1.safetensors").write_bytes(member[:50])
    with pytest.raises(QsdError, match=r"member-1\.safetensors: truncated or damaged"):
        load_ranker(folder)
