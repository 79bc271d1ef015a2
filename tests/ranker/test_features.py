import dataclasses

import numpy as np
import torch
from support.synthetic_store import synthetic_header

from qsd.ranker.features import (
    FEATURE_VERSION,
    KINDS,
    NODE_ROLES,
    OPTION_FEATURES,
    STATIC_FEATURES,
    GraphFeatures,
)


def test_weight_nodes_carry_their_options():
    header = synthetic_header(2)
    graph = GraphFeatures.of(header)
    for node, place in zip(header.graph.nodes, range(graph.num_nodes), strict=True):
        assert KINDS[graph.kind[place]] == node.kind
        assert NODE_ROLES[graph.role[place]] == node.role
        if node.layer < 0:
            assert not graph.option[place].any()
            continue
        for index, option in enumerate(header.options):
            row = dict(zip(OPTION_FEATURES, graph.option[place, index].tolist(), strict=True))
            assert row[f"is_{option.traits.grid}"] == row[f"is_per_{option.traits.scope}"] == 1
            assert row["bits"] == option.traits.bits / 4
            np.testing.assert_allclose(
                10 ** row["log_error"], header.relative_error[node.layer, index], rtol=1e-5
            )
            expected = header.num_bytes[node.layer, index] / (2 * header.layers[node.layer].num_weights)
            np.testing.assert_allclose(row["compression"], expected, rtol=1e-5)


def test_features_have_no_unit():
    """A denoiser whose layers all are of other sizes in the same proportion differs in the fans only."""
    header = synthetic_header(2)
    layers = [
        dataclasses.replace(layer, shape=(layer.shape[0] * 4, layer.shape[1])) for layer in header.layers
    ]
    large = dataclasses.replace(header, layers=layers, num_bytes=header.num_bytes * 4)
    ours, theirs = GraphFeatures.of(header), GraphFeatures.of(large)
    torch.testing.assert_close(ours.option, theirs.option)
    differs = (ours.static != theirs.static).any(dim=0)
    assert [name for name, flag in zip(STATIC_FEATURES, differs, strict=True) if flag] == ["log_fan_out"]
    assert ours.static.abs().max() < 10


def test_unknown_role_is_other():
    header = synthetic_header(1)
    nodes = tuple(dataclasses.replace(node, role="telepathy") for node in header.graph.nodes)
    graph = GraphFeatures.of(
        dataclasses.replace(header, graph=dataclasses.replace(header.graph, nodes=nodes))
    )
    assert {NODE_ROLES[role] for role in graph.role} == {"other"}


def test_edges_in_both_directions():
    graph = GraphFeatures.of(synthetic_header(1))
    assert graph.edges(both_directions=False) is graph.edge_index
    both = graph.edges(both_directions=True)
    torch.testing.assert_close(both, torch.cat([graph.edge_index, graph.edge_index.flip(0)], dim=1))


def test_block_outputs():
    header = synthetic_header(3)
    outputs = [header.graph.nodes[place] for place in GraphFeatures.of(header).is_output.nonzero().squeeze(1)]
    assert [(node.kind, node.block) for node in outputs] == [
        ("add", 0),
        ("add", 1),
        ("add", 2),
        ("weight", -1),
    ]


def test_version_names_the_vocabulary():
    assert FEATURE_VERSION.startswith("2-")
