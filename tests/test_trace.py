"""The traced graph of a denoiser: structure, counts and determinism."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import nn

from qsd.denoisers import Graph, Traced, WeightLayer, chain_graph, trace
from qsd.errors import QsdError


def tiny_pixart(**changes: object) -> PixArtTransformer2DModel:
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "cross_attention_dim": 16,
        "sample_size": 8,
        "caption_channels": 12,
        "norm_num_groups": 4,
    }
    return PixArtTransformer2DModel(**(settings | changes)).eval()


def predecessors(graph: Graph, node: int) -> set[int]:
    return set(graph.edge_index[0, graph.edge_index[1] == node].tolist())


def assert_well_formed(denoiser: nn.Module, traced: Traced) -> None:
    """What must hold for every denoiser."""
    graph, layers = traced.graph, traced.layers
    assert np.all(graph.edge_index[0] < graph.edge_index[1]), "acyclic, nodes in execution order"
    sinks = set(range(graph.num_nodes)) - set(graph.edge_index[0].tolist())
    assert sinks == {graph.output}
    reaches = {graph.output}
    for source, target in graph.edge_index.T[::-1]:
        if target in reaches:
            reaches.add(int(source))
    assert reaches == set(range(graph.num_nodes)), "everything reaches the output"
    assert set(graph.layer_index.tolist()) - {-1} == set(range(len(layers)))
    assert len({layer.name for layer in layers}) == len(layers)
    assert len({node.name for node in graph.nodes}) == graph.num_nodes
    for index, node in enumerate(graph.nodes):
        inputs = predecessors(graph, index)
        if node.kind == "weight":
            assert len(inputs) <= 1
            assert node.role == layers[node.layer].role
        elif node.kind == "qk":
            assert all(graph.nodes[source].kind != "sv" or source in inputs for source in inputs)
        elif node.kind == "sv":
            kinds = [graph.nodes[source].kind for source in inputs]
            assert "qk" in kinds, "queries and keys meet before values join"
        else:
            assert len(inputs) >= 2 or node.kind == "matmul", node
    assert_covers_every_weight(denoiser, traced)


def assert_covers_every_weight(denoiser: nn.Module, traced: Traced) -> None:
    modules = dict(denoiser.named_modules(remove_duplicate=False))
    wanted = {
        path
        for path, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    held = [path for layer in traced.layers for path in (layer.module, *layer.tied)]
    assert set(held) | set(traced.unused) == wanted
    assert set(held).isdisjoint(traced.unused)
    for path in {layer.module for layer in traced.layers}:
        slices = [layer for layer in traced.layers if layer.module == path]
        assert sum(layer.num_weights for layer in slices) == modules[path].weight.numel()
        if len(slices) > 1:
            ends = sorted(layer.segment for layer in slices)
            assert ends[0][0] == 0 and ends[-1][1] == modules[path].weight.shape[1]
            assert all(left[1] == right[0] for left, right in itertools.pairwise(ends))


def test_a_pixart_block_is_the_graph_of_the_paper() -> None:
    denoiser = tiny_pixart()
    traced = trace(denoiser)
    assert_well_formed(denoiser, traced)
    graph = traced.graph
    assert Counter(node.kind for node in graph.nodes if node.block == 1) == {
        "weight": 10,
        "modulate": 2,
        "qk": 2,
        "sv": 2,
        "mul": 2,
        "add": 3,
    }
    named = {node.name: index for index, node in enumerate(graph.nodes)}
    inputs_of = lambda name: {graph.nodes[index].name for index in predecessors(graph, named[name])}  # noqa: E731
    block = "transformer_blocks.1"
    assert inputs_of(f"{block}.modulate") == {"transformer_blocks.0.add@3", "adaln_single.linear"}
    assert inputs_of(f"{block}.attn1.qk") == {f"{block}.attn1.to_q", f"{block}.attn1.to_k"}
    assert inputs_of(f"{block}.attn1.sv") == {f"{block}.attn1.qk", f"{block}.attn1.to_v"}
    assert inputs_of(f"{block}.attn2.to_k") == {"caption_projection.linear_2"}
    assert inputs_of(f"{block}.add@2") == {f"{block}.add", f"{block}.attn2.to_out.0"}
    assert graph.nodes[graph.output].name == "proj_out"


def test_tracing_needs_no_weights_and_does_not_touch_the_denoiser() -> None:
    denoiser = tiny_pixart()
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    traced = trace(denoiser)
    assert all(torch.equal(before[name], tensor) for name, tensor in denoiser.state_dict().items())
    with torch.device("meta"):
        weightless = tiny_pixart()
    again = trace(weightless)
    assert again.graph == traced.graph
    assert again.layers == traced.layers
    assert again.graph.topology_hash() == traced.graph.topology_hash()
    assert trace(tiny_pixart(num_layers=3)).graph.topology_hash() != traced.graph.topology_hash()


def test_json_round_trip() -> None:
    traced = trace(tiny_pixart())
    nodes = json.loads(json.dumps(traced.graph.to_json()))
    assert Graph.from_json(nodes, traced.graph.edge_index) == traced.graph
    layers = json.loads(json.dumps([layer.to_json() for layer in traced.layers]))
    assert [WeightLayer.from_json(layer) for layer in layers] == traced.layers
    with pytest.raises(QsdError, match="backwards"):
        Graph.from_json(nodes, traced.graph.edge_index[::-1])
    with pytest.raises(QsdError, match="malformed"):
        WeightLayer.from_json({"name": "x"})


def test_tied_weights_are_one_layer() -> None:
    denoiser = tiny_pixart()
    first, second = (block.ff.net[2] for block in denoiser.transformer_blocks)
    second.weight = first.weight
    traced = trace(denoiser)
    assert_well_formed(denoiser, traced)
    (layer,) = [layer for layer in traced.layers if layer.tied]
    assert layer.module == "transformer_blocks.0.ff.net.2"
    assert layer.tied == ("transformer_blocks.1.ff.net.2",)
    uses = [node.name for node in traced.graph.nodes if node.layer == traced.layers.index(layer)]
    assert uses == [layer.name, f"{layer.name}@2"]


def test_unused_layers_are_reported_apart() -> None:
    denoiser = tiny_pixart()
    denoiser.spare = nn.Linear(3, 3)
    traced = trace(denoiser)
    assert traced.unused == ("spare",)
    assert_well_formed(denoiser, traced)


def test_untraceable_forward_names_the_operation() -> None:
    class Stubborn(PixArtTransformer2DModel):
        def forward(self, hidden_states: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
            return (self.pos_embed(hidden_states) * len(hidden_states.nonzero().tolist()),)

    denoiser = Stubborn(**dict(tiny_pixart().config))
    with pytest.raises(QsdError, match=r"Stubborn cannot be traced: forward runs .*nonzero"):
        trace(denoiser)
    chain = chain_graph(denoiser)
    assert_well_formed(denoiser, chain)
    assert chain.graph.num_edges == chain.graph.num_nodes - 1


@pytest.mark.slow
def test_full_size_pixart_alpha() -> None:
    """287 weight layers as published. The published graph has 281 combine nodes, this one 309: it has the two

    gates of each block (56 nodes) as products, and no node for the normalizations that only one path enters
    (28 nodes).
    """
    with torch.device("meta"):
        denoiser = PixArtTransformer2DModel(sample_size=64, caption_channels=4096)
    traced = trace(denoiser)
    assert_well_formed(denoiser, traced)
    assert len(traced.layers) == 287
    assert sum(layer.num_weights for layer in traced.layers) == 610_228_224
    kinds = Counter(node.kind for node in traced.graph.nodes)
    assert kinds == {"weight": 287, "modulate": 57, "qk": 56, "sv": 56, "mul": 56, "add": 84}
