"""Every family traces: tiny ones against brute force, full-size ones against published counts."""

import functools
from collections import Counter

import pytest
import torch
from support.families import FAMILIES, PAPER
from support.graph_checks import assert_well_formed, descendants, influenced, predecessors, random_inputs
from torch.overrides import TorchFunctionMode

from qsd.denoisers import Traced, WeightLayer, tie_equal_weights, trace


@functools.cache
def tiny_trace(family: str) -> Traced:
    return trace(FAMILIES[family].build_tiny("meta"))


def splits(layers: list[WeightLayer]) -> dict[str, list[int]]:
    """Module path -> widths of its segments."""
    widths: dict[str, list[int]] = {}
    for layer in layers:
        if layer.segment is not None:
            widths.setdefault(layer.module, []).append(layer.segment[1] - layer.segment[0])
    return widths


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_well_formed(family: str) -> None:
    traced = tiny_trace(family)
    assert_well_formed(FAMILIES[family].build_tiny("meta"), traced)
    assert "join" not in {node.kind for node in traced.graph.nodes}
    assert "other" not in {layer.role for layer in traced.layers}
    assert max(layer.block for layer in traced.layers) >= 1


@pytest.mark.parametrize("family", ["pixart_alpha", "hunyuan_dit", "sd15", "dit", "sana", "lumina2", "wan"])
def test_paths_are_those_that_data_takes(family: str) -> None:
    """A layer is downstream of another exactly when disturbing the other's output changes what it reads."""
    denoiser, traced = FAMILIES[family].build_tiny(), tiny_trace(family)
    measured = influenced(denoiser, traced)
    by_graph = {
        path: below & measured.keys() for path, below in descendants(traced).items() if path in measured
    }
    assert by_graph == measured


@pytest.mark.parametrize("family", ["flux", "sd35", "cogvideox"])
def test_joint_attention_is_one_pair_of_nodes(family: str) -> None:
    """All paths are there; two more are drawn, since the queries of one stream do not reach the other's."""
    denoiser, traced = FAMILIES[family].build_tiny(), tiny_trace(family)
    by_graph = descendants(traced)
    for path, below in influenced(denoiser, traced).items():
        assert below <= by_graph[path]


@pytest.mark.parametrize("family", ["sdxl", "sd15", "hunyuan_dit"])
def test_segments_are_cut_where_the_forward_concatenates(family: str) -> None:
    class Concatenations(TorchFunctionMode):
        widths: list[list[int]] = []  # noqa: RUF012

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.cat and args[0][0].ndim == (3 if family == "hunyuan_dit" else 4):
                axis = kwargs["dim"] if kwargs else args[1]
                if args[0][0].shape[axis] != args[0][0].shape[0]:
                    self.widths.append([tensor.shape[axis] for tensor in args[0]])
            return func(*args, **(kwargs or {}))

    denoiser, traced = FAMILIES[family].build_tiny(), tiny_trace(family)
    readers = ("skip_linear",) if family == "hunyuan_dit" else ("resnet.conv1", "resnet.shortcut")
    seen = Concatenations()
    with torch.no_grad(), seen:
        denoiser(**random_inputs(denoiser))
    for role in readers:
        cut = [layer for layer in traced.layers if layer.role == role and layer.segment is not None]
        in_order = [[one.shape[1], other.shape[1]] for one, other in zip(cut[::2], cut[1::2], strict=True)]
        assert in_order
        assert in_order == seen.widths[-len(in_order) :]


def test_segments_read_their_own_half_and_are_summed() -> None:
    traced = tiny_trace("sd15")
    graph = traced.graph
    named = {node.name: index for index, node in enumerate(graph.nodes)}
    first, second = (layer.name for layer in traced.layers if layer.module == "up_blocks.0.resnets.0.conv1")
    assert [graph.nodes[index].name for index in predecessors(graph, named[first])] == [
        "mid_block.resnets.1.add@2"
    ]
    assert predecessors(graph, named[second]) != predecessors(graph, named[first])
    (sum_of_both,) = {
        target for source, target in graph.edge_index.T.tolist() if source in (named[first], named[second])
    }
    assert graph.nodes[sum_of_both].kind == "add"
    assert set(predecessors(graph, sum_of_both)) == {named[first], named[second]}


def test_equal_weights_become_one_layer() -> None:
    denoiser = FAMILIES["dit"].build_tiny()
    first, *others = (block.norm1.emb.timestep_embedder for block in denoiser.transformer_blocks)
    for other in others:
        other.load_state_dict(first.state_dict())
    assert tie_equal_weights(denoiser) == 2 * len(others)
    assert tie_equal_weights(denoiser) == 0
    traced = trace(denoiser)
    assert_well_formed(denoiser, traced)
    assert len(traced.layers) == len(tiny_trace("dit").layers) - 2 * len(others)
    embedders = [layer for layer in traced.layers if layer.role == "time_embed"]
    assert [layer.tied for layer in embedders] == [
        ("transformer_blocks.1.norm1.emb.timestep_embedder.linear_1",),
        ("transformer_blocks.1.norm1.emb.timestep_embedder.linear_2",),
    ]
    assert sum(node.role == "time_embed" for node in traced.graph.nodes) == 2, "used twice on the same input"


def test_blocks_and_stages() -> None:
    traced = tiny_trace("sd15")
    stages = {
        layer.module.split(".resnets")[0]: layer.stage for layer in traced.layers if "resnets" in layer.module
    }
    assert stages == {
        "down_blocks.0": 0,
        "down_blocks.1": 1,
        "mid_block": 2,
        "up_blocks.0": 3,
        "up_blocks.1": 4,
    }
    blocks = [layer.block for layer in traced.layers if layer.role == "resnet.conv2"]
    assert blocks == sorted(set(blocks)), "each residual block is one block, numbered in execution order"
    assert {
        layer.block for layer in traced.layers if layer.role in ("conv_in", "conv_out", "time_embed")
    } == {-1}


SKIP_WIDTHS = {
    "sd15": [(1280, 1280)] * 5
    + [(1280, 640)] * 2
    + [(640, 640), (640, 320)]
    + [(640, 320)]
    + [(320, 320)] * 2,
    "sdxl": [(1280, 1280)] * 2
    + [(1280, 640)] * 2
    + [(640, 640), (640, 320)]
    + [(640, 320)]
    + [(320, 320)] * 2,
}


@functools.cache
def full_trace(family: str) -> Traced:
    return trace(FAMILIES[family].build_full())


# Published graphs (nodes/edges, weight nodes) and why these differ. Gates are nodes here and none there.
FULL_COUNTS: dict[str, tuple[int, int, int]] = {
    "pixart_alpha": (287, 596, 902),  # 568/818, 287: 56 gates more, 28 norms that one path enters fewer
    "pixart_sigma": (287, 596, 902),  # 568/818, 287: likewise
    "hunyuan_dit": (491, 834, 1171),  # 844/1172, about 474: also the pooled attention and the embedders
    "sdxl": (812, 1366, 1777),  # 1316/1701, 803: also the 9 shortcuts of the up blocks in two segments
    "sd15": (306, 502, 664),  # 432/558, 294: likewise 12
    "dit": (255, 480, 676),  # 369/535, 201: 27 copies of the two-layer timestep embedder, until they are tied
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FULL_COUNTS)
def test_full_size(family: str) -> None:
    """Weight layers, nodes and edges of the published models."""
    traced = full_trace(family)
    assert_well_formed(FAMILIES[family].build_full(), traced)
    graph = traced.graph
    assert (len(traced.layers), graph.num_nodes, graph.num_edges) == FULL_COUNTS[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", SKIP_WIDTHS)
def test_full_size_u_nets_split_every_up_block_residual(family: str) -> None:
    cut = splits(full_trace(family).layers)
    for leaf in ("conv1", "conv_shortcut"):
        widths = [tuple(halves) for module, halves in cut.items() if module.endswith(leaf)]
        assert widths == SKIP_WIDTHS[family]
    assert len(cut) == 2 * len(SKIP_WIDTHS[family])


DIT_BLOCK = {"modulate": 2, "mul": 2, "qk": 1, "sv": 1, "add": 2}
CROSS_DIT_BLOCK = {"modulate": 2, "mul": 2, "qk": 2, "sv": 2, "add": 3}
JOINS_OF_BLOCK = {
    "pixart_alpha": CROSS_DIT_BLOCK,
    "pixart_sigma": CROSS_DIT_BLOCK,
    "hunyuan_dit": {"qk": 2, "sv": 2, "add": 5},  # residuals, the timestep shift, the halves of the skip
    "sd15": {"add": 1},  # a residual block whose halves are summed has more
    "sdxl": {"add": 1},
    "dit": DIT_BLOCK,
}


@pytest.mark.parametrize("family", PAPER)
def test_the_last_block_joins_as_published(family: str) -> None:
    """The published graphs draw the same operations except the gates ("mul"), and norms that join nothing."""
    nodes = tiny_trace(family).graph.nodes
    last = max(node.block for node in nodes)
    joins = Counter(node.kind for node in nodes if node.block == last and node.kind != "weight")
    assert joins >= Counter(JOINS_OF_BLOCK[family])
    if family not in ("sd15", "sdxl"):
        assert joins == JOINS_OF_BLOCK[family]
