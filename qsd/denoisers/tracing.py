"""Traces any diffusers denoiser into weight layers and the graph that joins them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from qsd.denoisers.blocks import block_of, block_paths, stage_of
from qsd.denoisers.contraction import Contraction, RawNode
from qsd.denoisers.exporting import export
from qsd.denoisers.graph import WEIGHT, Graph, Node
from qsd.denoisers.inputs import example_inputs
from qsd.denoisers.layers import (
    STACK,
    WeightLayer,
    kind_of,
    matrix_of,
    parameter_path,
    segment_name,
    tied_modules,
    weight_at,
)
from qsd.denoisers.macs import with_macs
from qsd.denoisers.roles import attention_part, attention_role, role_of
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class Traced:
    """A denoiser as qsd sees it.

    Attributes:
        layers: L weight layers in execution order ("bank order").
        graph: weight nodes point into ``layers``.
        unused: paths of Linear and Conv modules without influence on the output of the traced forward.
    """

    layers: list[WeightLayer]
    graph: Graph
    unused: tuple[str, ...]


def trace(denoiser: nn.Module, *, inputs: Mapping[str, Any] | None = None) -> Traced:
    """Traces one forward pass by shapes; needs no memory for weights unless the forward asks for values.

    Args:
        denoiser: any diffusers denoiser, on any device (meta included).
        inputs: keyword arguments of its forward; by default guessed from its config
            (:func:`qsd.denoisers.inputs.example_inputs`). What its pipeline gives is
            :func:`qsd.denoisers.recording.record_inputs`.

    Returns:
        Weight layers, graph and unused modules. Deterministic: it depends on the architecture alone.

    Raises:
        QsdError: the forward cannot be traced; the message names the operation. :func:`chain_graph` is the
            fallback for such a denoiser.
    """
    tied = tied_modules(denoiser)
    weights = {
        parameter_path(denoiser, path): first for first, others in tied.items() for path in (first, *others)
    }
    given = example_inputs(denoiser) if inputs is None else inputs
    program = export(denoiser, given)
    contraction = Contraction(program, weights)
    if contraction.output is None:
        raise QsdError(
            f"the output of {type(denoiser).__name__} depends on no weight layer; nothing to quantize"
        )
    nodes = _fuse_modulations(_reaching(contraction.nodes, contraction.output))
    traced = _assemble(denoiser, nodes, tied)
    return dataclasses.replace(traced, layers=with_macs(denoiser, traced.layers, given))


def weight_layers(denoiser: nn.Module) -> list[WeightLayer]:
    """The weight layers of a denoiser in bank order; see :func:`trace`."""
    return trace(denoiser).layers


def chain_graph(denoiser: nn.Module) -> Traced:
    """A fallback for denoisers that cannot be traced: every weight in module order, each fed by the last.

    Roles come from module paths alone, and no weight is split into segments.
    """
    tied = tied_modules(denoiser)
    nodes = [RawNode(WEIGHT, path, [index - 1] if index else []) for index, path in enumerate(tied)]
    if not nodes:
        raise QsdError(f"{type(denoiser).__name__} has no Linear or Conv module; nothing to quantize")
    return _assemble(denoiser, nodes, tied)


def _reaching(nodes: list[RawNode], output: int) -> list[RawNode]:
    """The nodes from which the output can be reached, renumbered."""
    needed = {output}
    for index in range(output, -1, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    kept = sorted(needed)
    renumbered = {old: new for new, old in enumerate(kept)}
    return [
        dataclasses.replace(nodes[old], inputs=[renumbered[source] for source in nodes[old].inputs])
        for old in kept
    ]


def _fuse_modulations(nodes: list[RawNode]) -> list[RawNode]:
    """Turns x * scale + shift, where scale and shift come from one path, into one "modulate" node."""
    num_readers = np.bincount([source for node in nodes for source in node.inputs], minlength=len(nodes))
    for node in nodes:
        if node.kind != "add" or len(node.inputs) != 2:
            continue
        for product, shift in (node.inputs, node.inputs[::-1]):
            inputs = nodes[product].inputs
            if nodes[product].kind == "mul" and num_readers[product] == 1 and shift in inputs:
                node.kind, node.inputs = "modulate", list(inputs)
                break
    return _reaching(nodes, len(nodes) - 1)


def _assemble(denoiser: nn.Module, nodes: list[RawNode], tied: Mapping[str, tuple[str, ...]]) -> Traced:
    """Gives nodes and layers their names, roles and places."""
    cross = _cross_attention(nodes)
    places = _Places(denoiser, nodes)
    modules = dict(denoiser.named_modules())
    layers: dict[str, WeightLayer] = {}
    order: dict[str, int] = {}
    names: dict[str, int] = {}
    finished: list[Node] = []
    for index, node in enumerate(nodes):
        block, stage, depth = places.block[index], places.stage[index], index / max(len(nodes) - 1, 1)
        if node.kind == WEIGHT:
            name = segment_name(node.module, node.segment)
            role = _segment_role(role_of(node.module, cross), node, nodes)
            if name not in layers:
                order[name] = len(layers)
                owner = modules.get(node.module)
                kind = STACK if owner is None else kind_of(owner) or ""
                weight_shape = _slice_shape(matrix_of(weight_at(denoiser, node.module), kind), node.segment)
                layers[name] = WeightLayer(
                    name,
                    node.module,
                    node.segment,
                    role,
                    kind,
                    weight_shape,
                    block,
                    stage,
                    depth,
                    tied[node.module],
                )
        else:
            name = f"{node.module}.{node.kind}".lstrip(".")
            is_attention = node.kind in ("qk", "sv")
            role = f"{attention_role(node.module, cross)}.{node.kind}" if is_attention else node.kind
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}@{names[name]}"
        finished.append(Node(unique, node.kind, order.get(name, -1), role, block, stage, depth))
    edges = sorted((target, source) for target, node in enumerate(nodes) for source in set(node.inputs))
    edge_index = np.array(edges, dtype=np.int64).reshape(-1, 2)[:, ::-1].T
    used = {layer.module for layer in layers.values()}
    unused = tuple(path for first, others in tied.items() if first not in used for path in (first, *others))
    return Traced(list(layers.values()), Graph(tuple(finished), np.ascontiguousarray(edge_index)), unused)


class _Places:
    """Block and stage index of every node, numbered in execution order."""

    def __init__(self, denoiser: nn.Module, nodes: list[RawNode]) -> None:
        blocks = block_paths(denoiser)
        block_index: dict[str | None, int] = {None: -1}
        stage_index: dict[str, int] = {}
        self.block: list[int] = []
        self.stage: list[int] = []
        current = 0
        for node in nodes:
            block, stage = block_of(node.module, blocks), stage_of(node.module)
            self.block.append(block_index.setdefault(block, len(block_index) - 1))
            if stage is not None:
                current = stage_index.setdefault(stage, len(stage_index))
            self.stage.append(current)


def _cross_attention(nodes: list[RawNode]) -> dict[str, bool]:
    """Attention module path -> whether the layers of its queries and keys read different data."""
    reads: dict[str, dict[str, list[int]]] = {}
    for node in nodes:
        attention = attention_part(node.module) if node.kind == WEIGHT else None
        if attention is not None:
            reads.setdefault(attention[0], {})[attention[1]] = node.inputs
    return {
        owner: parts.get("q", []) != parts.get("k", parts.get("kv", parts.get("q", [])))
        for owner, parts in reads.items()
    }


def _segment_role(role: str, node: RawNode, nodes: list[RawNode]) -> str:
    """In a parallel block the segment that reads attention is its output, the other the feed-forward's."""
    if role != "self_attn_ff.out" or node.segment is None:
        return role
    reads_attention = any(nodes[source].kind == "sv" for source in node.inputs)
    return "self_attn.out" if reads_attention else "ff.out"


def _slice_shape(weight: torch.Tensor, segment: tuple[int, int] | None) -> tuple[int, ...]:
    shape = tuple(int(size) for size in weight.shape)
    return shape if segment is None else (shape[0], segment[1] - segment[0], *shape[2:])
