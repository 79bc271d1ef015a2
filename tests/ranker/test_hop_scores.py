"""Hop scores against the whole graph, by brute force."""

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_header

from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.features import GraphFeatures
from qsd.ranker.hop_scores import module_scores, modules_of, operation_scores
from qsd.ranker.network import NetworkSettings
from qsd.support.errors import QsdError

DEPTH = 3


@pytest.fixture
def header():
    return synthetic_header(2)


@pytest.fixture
def members(header):
    torch.manual_seed(0)
    settings = NetworkSettings(width=8, depth=DEPTH, heads=2, norm="none", closed_form="none")
    made = Ensemble(Member(settings, [GraphFeatures.of(header)], 1) for _ in range(2))
    for number, member in enumerate(made):
        member.hop_mean[0] = torch.arange(DEPTH + 1.0) + number
        member.hop_std[0] = torch.arange(DEPTH + 1.0) + 0.5
        member.hop_weight[0] = torch.linspace(0.2, 0.9, DEPTH + 1)
    return made.eval().requires_grad_(False)


def by_brute_force(members, header, configs, root, hop):
    graph = GraphFeatures.of(header)
    total = np.zeros(len(configs))
    for member in members:
        norms = member.network.embed(graph, torch.from_numpy(configs.astype(np.int64)))[hop][:, root]
        norms = norms.abs().sum(dim=-1).double()
        total += (
            member.hop_weight[0, hop] * (norms - member.hop_mean[0, hop]) / member.hop_std[0, hop]
        ).numpy()
    return total


def test_operation_scores_are_those_of_nodes_in_the_whole_graph(members, header):
    scores = operation_scores(members, header)
    nodes = header.graph.layer_index
    for layer in (0, 5, len(header.layers) - 1):
        configs = np.zeros((6, len(header.layers)), dtype=np.int8)
        configs[:, layer] = np.arange(6)
        root = int(np.flatnonzero(nodes == layer)[0])
        np.testing.assert_allclose(
            scores[layer], by_brute_force(members, header, configs, root, 0), rtol=1e-5
        )


def test_modules_cover_every_layer_once(header):
    modules = modules_of(header, DEPTH)
    assert sorted(layer for module in modules for layer in module.layers) == list(range(len(header.layers)))
    roles = [{header.layers[layer].role for layer in module.layers} for module in modules]
    assert {"ff.in", "ff.out"} in roles
    assert {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.out"} in roles
    assert all(module.hop <= DEPTH for module in modules)


def test_module_scores_are_those_in_the_whole_graph(members, header):
    available = np.ones((len(header.layers), 6), dtype=bool)
    available[:, 5] = False
    base = np.where(available, operation_scores(members, header), -np.inf).argmax(axis=1)
    found = module_scores(members, header, available)
    for module, scored in zip(modules_of(header, DEPTH), found, strict=True):
        assert tuple(scored.layers) == module.layers
        assert len(scored.options) == 5 ** len(module.layers)
        assert (scored.options < 5).all()
        some = np.random.default_rng(0).choice(len(scored.options), 4)
        configs = np.repeat(base[None].astype(np.int8), 4, axis=0)
        configs[:, list(module.layers)] = scored.options[some]
        truth = by_brute_force(members, header, configs, module.root, module.hop)
        np.testing.assert_allclose(scored.score[some], truth, rtol=1e-4, atol=1e-4)


def test_a_network_whose_hops_do_not_rank_is_refused(members, header):
    for member in members:
        member.hop_weight.zero_()
    with pytest.raises(QsdError, match=r"its hop 0 does not rank; .*pixart_paper\.yaml"):
        operation_scores(members, header)
