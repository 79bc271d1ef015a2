"""The graph network: shapes, batches, hops, and what it is without a head."""

import dataclasses

import pytest
import torch
from support.small_rankers import SMALL, randomized

from qsd.ranker.ensemble import Member
from qsd.ranker.features import GraphFeatures
from qsd.ranker.network import GraphRanker

CONVS = ("gatv2", "gin", "sage", "graphconv", "pna", "transformer")


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("both", [False, True])
def test_shapes_and_gradients(graph, configs, conv, both):
    settings = dataclasses.replace(SMALL, conv=conv, both_directions=both, layer_embedding=True)
    network = randomized(GraphRanker(settings, [graph], num_targets=2))
    prediction = network(graph, configs)
    assert prediction.outputs.shape == (10, 2)
    assert prediction.norms.shape == (3, 10)
    (prediction.outputs.square().sum() + prediction.norms.sum()).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("pooling", ["all", "weights", "outputs"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_predictions_do_not_depend_on_batch_or_micro_batch(graph, configs, pooling, norm):
    network = randomized(GraphRanker(dataclasses.replace(SMALL, pooling=pooling, norm=norm), [graph])).eval()
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
    network = randomized(GraphRanker(settings, [graph])).double()
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
    network = randomized(GraphRanker(SMALL, [graph])).eval()
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
    network = randomized(GraphRanker(SMALL, [graph])).eval()
    torch.testing.assert_close(network(shuffled, configs).outputs, network(graph, configs).outputs)


def test_a_hop_sees_its_neighbourhood_and_no_further(header, graph, configs):
    """After k layers a node depends on the layers at most k edges upstream."""
    network = randomized(GraphRanker(SMALL, [graph])).eval()
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
    network = randomized(GraphRanker(SMALL, [graph])).eval()
    hops = network.embed(graph, configs)
    expected = [hops[0][:, graph.is_weight].mean(dim=1), hops[1].mean(dim=1), hops[2].mean(dim=1)]
    norms = torch.stack([hop.abs().sum(dim=-1) for hop in expected])
    torch.testing.assert_close(network(graph, configs).norms, norms)


def test_without_graph_head_and_responses_the_model_is_additive(header, graph, configs):
    member = Member(dataclasses.replace(SMALL, graph_head=False, closed_form="additive"), [graph], 1).eval()
    member.contributions().copy_(torch.randn(graph.num_layers, 6))
    expected = member.contributions()[torch.arange(graph.num_layers), configs].sum(dim=1)
    torch.testing.assert_close(member(graph, configs).outputs[:, 0], expected)
