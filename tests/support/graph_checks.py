"""What must hold for the graph of every denoiser, and a brute-force check of its paths."""

import itertools

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from qsd.denoisers import Graph, Traced
from qsd.denoisers.inputs import example_inputs


def predecessors(graph: Graph, node: int) -> list[int]:
    return graph.edge_index[0, graph.edge_index[1] == node].tolist()


def assert_well_formed(denoiser: nn.Module, traced: Traced) -> None:
    graph, layers = traced.graph, traced.layers
    assert np.all(graph.edge_index[0] < graph.edge_index[1]), "acyclic, nodes in execution order"
    assert set(range(graph.num_nodes)) - set(graph.edge_index[0].tolist()) == {graph.output}
    assert set(graph.layer_index.tolist()) - {-1} == set(range(len(layers)))
    assert len({layer.name for layer in layers}) == len(layers)
    assert len({node.name for node in graph.nodes}) == graph.num_nodes
    first_uses = [graph.layer_index.tolist().index(index) for index in range(len(layers))]
    assert first_uses == sorted(first_uses), "layers stand in execution order"
    for index, node in enumerate(graph.nodes):
        assert_joins(graph, index)
        if node.layer >= 0:
            layer = layers[node.layer]
            assert (node.kind, node.role, node.block) == ("weight", layer.role, layer.block)
            assert 0 <= layer.depth <= 1
    assert_covers_every_weight(denoiser, traced)


def assert_joins(graph: Graph, index: int) -> None:
    """Queries and keys meet before values join; every other combine node joins two or more paths."""
    node, inputs = graph.nodes[index], predecessors(graph, index)
    if node.kind == "weight":
        assert len(inputs) <= 1
    elif node.kind == "qk":
        assert 1 <= len(inputs) <= 2
        assert all(graph.nodes[reader].kind == "sv" for reader in successors(graph, index))
    elif node.kind == "sv":
        assert sum(graph.nodes[source].kind == "qk" for source in inputs) == 1
    else:
        assert len(inputs) >= 2, node


def successors(graph: Graph, node: int) -> list[int]:
    return graph.edge_index[1, graph.edge_index[0] == node].tolist()


def assert_covers_every_weight(denoiser: nn.Module, traced: Traced) -> None:
    modules = dict(denoiser.named_modules(remove_duplicate=False))
    quantizable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    wanted = {path for path, module in modules.items() if isinstance(module, quantizable)}
    held = {path for layer in traced.layers for path in (layer.module, *layer.tied)}
    assert held | set(traced.unused) == wanted
    assert held.isdisjoint(traced.unused)
    for path in {layer.module for layer in traced.layers}:
        slices = [layer for layer in traced.layers if layer.module == path]
        assert sum(layer.num_weights for layer in slices) == modules[path].weight.numel()
        if len(slices) > 1:
            ends = sorted(layer.segment for layer in slices)
            assert ends[0][0] == 0
            assert ends[-1][1] == modules[path].weight.shape[1]
            assert all(left[1] == right[0] for left, right in itertools.pairwise(ends))


def random_inputs(denoiser: nn.Module) -> dict[str, object]:
    """Real inputs of the shapes that the tracer uses."""
    generator = torch.Generator().manual_seed(0)

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bool:
            return torch.ones_like(tensor, device="cpu")
        if not tensor.is_floating_point():
            return torch.zeros_like(tensor, device="cpu")
        return torch.rand(tensor.shape, generator=generator)

    return tree_map_only(torch.Tensor, fill, example_inputs(denoiser))


def descendants(traced: Traced) -> dict[str, set[str]]:
    """Module path -> module paths downstream of it, by the graph."""
    graph = traced.graph
    reach = np.eye(graph.num_nodes, dtype=bool)
    for source, target in graph.edge_index[:, np.argsort(graph.edge_index[1], kind="stable")].T:
        reach[:, target] |= reach[:, source]
    modules = [traced.layers[node.layer].module if node.layer >= 0 else None for node in graph.nodes]
    result: dict[str, set[str]] = {module: set() for module in modules if module}
    for source, target in zip(*np.nonzero(reach & ~np.eye(graph.num_nodes, dtype=bool)), strict=True):
        if modules[source] and modules[target]:
            result[modules[source]].add(modules[target])
    return result


@torch.no_grad()
def influenced(denoiser: nn.Module, traced: Traced) -> dict[str, set[str]]:
    """The same by brute force: whose inputs change when the output of a module is disturbed.

    Modules that are read without being called (the projections of a pooled attention) are left out.
    """
    inputs = random_inputs(denoiser)
    paths = list(dict.fromkeys(layer.module for layer in traced.layers))
    modules = dict(denoiser.named_modules())
    seen: dict[str, torch.Tensor] = {}
    disturbed = ""

    def record(path: str) -> object:
        def hook(module: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor:
            seen[path] = arguments[0].clone()
            return (
                output + torch.linspace(1, 2, output.numel()).view_as(output) if path == disturbed else output
            )

        return hook

    hooks = [modules[path].register_forward_hook(record(path)) for path in paths]
    denoiser(**inputs)
    undisturbed = dict(seen)
    result = {}
    for disturbed in undisturbed:
        denoiser(**inputs)
        result[disturbed] = {path for path in undisturbed if not torch.equal(seen[path], undisturbed[path])}
    for handle in hooks:
        handle.remove()
    return result
