"""The traced graph of a denoiser: structure, counts and determinism."""

import json
from collections import Counter

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from support.families import FAMILIES
from support.graph_checks import assert_well_formed, predecessors
from support.tiny_pipelines import random_denoiser
from torch import nn

from qsd.denoisers import Graph, WeightLayer, chain_graph, trace
from qsd.support.errors import QsdError


def tiny_pixart(**changes: object) -> PixArtTransformer2DModel:
    family = FAMILIES["pixart_alpha"]
    return PixArtTransformer2DModel(**(family.full | family.tiny | changes)).eval()


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
    assert hash(again.graph) == hash(traced.graph)
    assert trace(tiny_pixart(num_layers=3)).graph != traced.graph


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


@pytest.mark.parametrize("family", ["pixart_alpha", "sd15"])
def test_denoisers_in_16_bits_are_traced_by_guessed_inputs(family: str) -> None:
    denoiser = random_denoiser(family)
    names = [layer.name for layer in trace(denoiser).layers]
    assert [layer.name for layer in trace(denoiser.to(torch.bfloat16)).layers] == names
