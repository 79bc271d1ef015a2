import dataclasses
import json

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_header, synthetic_store

from qsd.quantizers.options import Option
from qsd.ranker.additive import fit_additive_model
from qsd.ranker.checkpoint import load_ranker, save_ranker
from qsd.ranker.data import StoreData, prepare
from qsd.ranker.ensemble import Ensemble, Member, share_of
from qsd.ranker.evaluation import compare
from qsd.ranker.features import GraphFeatures
from qsd.ranker.metrics import spearman
from qsd.ranker.network import GraphRanker, NetworkSettings
from qsd.ranker.posteriors import TARGET, fit_posteriors
from qsd.ranker.predictors import EnsemblePredictor
from qsd.ranker.target import Target
from qsd.support.documents import with_hash
from qsd.support.errors import QsdError

CONVS = ("gatv2", "gin", "sage", "graphconv", "pna", "transformer")
SMALL = NetworkSettings(width=8, depth=2, heads=2)


@pytest.fixture(scope="module")
def header():
    return synthetic_header(1)


@pytest.fixture(scope="module")
def graph(header):
    return GraphFeatures.of(header)


@pytest.fixture(scope="module")
def configs(header):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 6, (10, len(header.layers))))


def _randomized(network):
    """Tables start at zero; tests need them to matter."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("both", [False, True])
def test_shapes_and_gradients(graph, configs, conv, both):
    settings = dataclasses.replace(SMALL, conv=conv, both_directions=both, layer_embedding=True)
    network = _randomized(GraphRanker(settings, [graph], num_targets=2))
    prediction = network(graph, configs)
    assert prediction.outputs.shape == (10, 2)
    assert prediction.norms.shape == (3, 10)
    (prediction.outputs.square().sum() + prediction.norms.sum()).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("pooling", ["all", "weights", "outputs"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_predictions_do_not_depend_on_batch_or_micro_batch(graph, configs, pooling, norm):
    network = _randomized(GraphRanker(dataclasses.replace(SMALL, pooling=pooling, norm=norm), [graph])).eval()
    together = network(graph, configs)
    network.nodes_per_batch = 3 * graph.num_nodes
    torch.testing.assert_close(network(graph, configs).outputs, together.outputs)
    alone = torch.cat([network(graph, config[None]).outputs for config in configs])
    torch.testing.assert_close(alone, together.outputs)


def _on_disjoint_copies(network, graph, configs):
    """Predictions of a network whose layers see one large graph: as PyG batches a list of Data objects."""
    settings, count = network.settings, len(configs)
    nodes = torch.arange(graph.num_nodes)
    hidden = network.node_table(graph)[nodes, configs[:, graph.layer] * graph.is_weight].flatten(0, 1)
    masks = {"all": graph.is_weight | True, "weights": graph.is_weight, "outputs": graph.is_output}
    edges = torch.cat(
        [graph.edges(settings.both_directions) + copy * graph.num_nodes for copy in range(count)], dim=1
    )
    hops = [hidden.view(count, graph.num_nodes, -1)[:, graph.is_weight].mean(dim=1)]
    for conv, norm in zip(network.convs, network.norms, strict=True):
        update = torch.relu(norm(conv(hidden, edges)))
        hidden = update + hidden if settings.residual else update
        hops.append(hidden.view(count, graph.num_nodes, -1)[:, masks[settings.pooling]].mean(dim=1))
    pooled = torch.stack(hops)
    flat = network.pool_norm(pooled.transpose(0, 1).flatten(1))
    return network.head(flat) + network.linear_head(flat), pooled.abs().sum(dim=-1)


@pytest.mark.parametrize("pooling", ["all", "weights", "outputs"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("conv", CONVS)
def test_a_batch_is_a_union_of_disjoint_copies(graph, configs, conv, both, residual, pooling):
    """Outputs and gradients are those of PyG's own layers on repeated edges."""
    torch.manual_seed(0)
    settings = dataclasses.replace(
        SMALL, conv=conv, both_directions=both, residual=residual, pooling=pooling, norm="batch"
    )
    network = _randomized(GraphRanker(settings, [graph])).double()
    graph = dataclasses.replace(graph, static=graph.static.double(), option=graph.option.double())
    network.nodes_per_batch = 100 * graph.num_nodes  # batch norm sees them all at once
    prediction = network(graph, configs)
    expected = _on_disjoint_copies(network, graph, configs)
    weights = torch.randn(len(configs), dtype=torch.float64)
    gradients = []
    for outputs, norms in ((prediction.outputs, prediction.norms), expected):
        loss = (outputs[:, 0] * weights).sum() + (norms * weights).sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
    torch.testing.assert_close((prediction.outputs, prediction.norms), expected)
    for (name, _), ours, plain in zip(network.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7, msg=name)


def test_a_graph_whose_nodes_read_one_node_each(graph, configs):
    """Attention has nothing to choose from."""
    chain = torch.arange(graph.num_nodes)
    graph = dataclasses.replace(graph, edge_index=torch.stack([chain[:-1], chain[1:]]))
    network = _randomized(GraphRanker(SMALL, [graph])).eval()
    prediction = network(graph, configs)
    torch.testing.assert_close(
        (prediction.outputs, prediction.norms), _on_disjoint_copies(network, graph, configs)
    )
    prediction.outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_node_order_does_not_matter(header, configs):
    """Renaming nodes within the topological order leaves predictions as they are."""
    graph = GraphFeatures.of(header)
    order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    shuffled = dataclasses.replace(
        graph,
        **{
            name: getattr(graph, name)[order]
            for name in ("kind", "role", "static", "option", "layer", "is_weight", "is_output")
        },
        edge_index=place[graph.edge_index],
    )
    network = _randomized(GraphRanker(SMALL, [graph])).eval()
    torch.testing.assert_close(network(shuffled, configs).outputs, network(graph, configs).outputs)


def test_a_hop_sees_its_neighbourhood_and_no_further(header, graph, configs):
    """After k layers a node depends on the layers at most k edges upstream."""
    network = _randomized(GraphRanker(SMALL, [graph])).eval()
    reach = torch.eye(graph.num_nodes, dtype=torch.bool)
    step = reach.clone()
    step[graph.edge_index[1], graph.edge_index[0]] = True
    base = network.embed(graph, configs[:1])
    for layer in range(graph.num_layers):
        changed = configs[:1].clone()
        changed[0, layer] = (changed[0, layer] + 1) % 6
        within = torch.eye(graph.num_nodes, dtype=torch.bool)
        for before, after in zip(base, network.embed(graph, changed), strict=True):
            moved = (before != after).any(dim=-1)[0]
            source = (graph.layer == layer) & graph.is_weight
            assert not (moved & ~(within[:, source].any(dim=1))).any()
            within = (within.float() @ step.float()) > 0


def test_hop_embeddings_are_means_of_node_embeddings(graph, configs):
    network = _randomized(GraphRanker(SMALL, [graph])).eval()
    hops = network.embed(graph, configs)
    expected = [hops[0][:, graph.is_weight].mean(dim=1), hops[1].mean(dim=1), hops[2].mean(dim=1)]
    norms = torch.stack([hop.abs().sum(dim=-1) for hop in expected])
    torch.testing.assert_close(network(graph, configs).norms, norms)


def test_without_graph_head_and_responses_the_model_is_additive(header, graph, configs):
    member = Member(dataclasses.replace(SMALL, graph_head=False, closed_form="additive"), [graph], 1).eval()
    member.contributions().copy_(torch.randn(graph.num_layers, 6))
    expected = member.contributions()[torch.arange(graph.num_layers), configs].sum(dim=1)
    torch.testing.assert_close(member(graph, configs).outputs[:, 0], expected)


def _fitted(data: StoreData, members: list[Member]) -> Ensemble:
    """An ensemble before training: its members know their scales and closed forms."""
    for index, member in enumerate(members):
        member.fit_scales(0, data.targets[data.training_rows(index)])
        member.fit_closed_form(0, data, index)
    return Ensemble(members)


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
    members = _fitted(data, [_randomized(Member(SMALL, [data.graph], 1)) for _ in range(2)])
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


@pytest.fixture
def saved(tmp_path, header, graph):
    torch.manual_seed(0)
    members = Ensemble(_randomized(Member(SMALL, [graph], 1)) for _ in range(3))
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
    members = _fitted(data, [Member(SMALL, [data.graph], 1) for _ in range(2)])
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
    members = _fitted(data, [Member(SMALL, [data.graph], 1) for _ in range(2)])
    assert all(member.responds(0) and not member.contributions().any() for member in members)
    members.calibrate([data])
    for index, member in enumerate(members):
        inside = data.training_rows(index)
        target = member.standardized(0, data.targets[inside])[:, 0].double().numpy()
        expected = fit_additive_model(data.header, data.configs[inside].numpy(), target).table
        np.testing.assert_allclose(member.contributions(), expected, rtol=1e-5, atol=1e-6)


def test_saving_again_leaves_no_old_members(saved, header):
    folder, members = saved
    save_ranker(folder, Ensemble([members[0]]), [header], "-fid", [{}])
    names = ["member-0.safetensors", "posterior-0.safetensors", "ranker.json"]
    assert sorted(file.name for file in folder.iterdir()) == names


def test_contributions_are_in_the_units_of_the_target(saved, configs):
    ranker = load_ranker(saved[0])
    table = ranker.contributions()
    assert table.shape == (len(ranker.header.layers), 6)
    np.testing.assert_allclose(table.mean(axis=1), 0, atol=1e-5)


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
