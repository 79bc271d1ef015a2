"""What the universal ranker sees of a denoiser: its graph, and every option of every layer."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from qsd.quantizers import Option
from qsd.ranker.features import OPTION_FEATURES, STATIC_FEATURES, GraphFeatures
from qsd.store import Header

_SMALLEST_ERROR = 1e-4
_RELATIVE = ("log_share", "log_fan_in", "log_fan_out", "log_mean_error")
"""Features that are taken relative to the denoiser's mean, so that a wide one looks as a narrow one does."""
NODE_FEATURES = (*STATIC_FEATURES, "log_uses", "log_in_degree", "log_out_degree")
"""``log_uses``: multiply-accumulates per weight, relative; 0 where they were not counted."""


@dataclasses.dataclass(eq=False)
class LayerGraph:
    """One denoiser, or several side by side. N nodes, E edges, L layers, R pairs of layer and option.

    Attributes:
        kind: int64 [N], index into :data:`qsd.ranker.features.KINDS`.
        role: int64 [N], index into :data:`qsd.ranker.features.NODE_ROLES`.
        static: float32 [N, len(NODE_FEATURES)].
        edges: int64 [2, E], in the direction of the data.
        node: int64 [L], the node of each layer's first use.
        layer: int64 [R], layer by layer.
        option: float32 [R, len(OPTION_FEATURES)].
        log_error: float32 [R], natural logarithm of the relative error; 0 where the layer lacks the option.
        available: bool [R].
    """

    kind: Tensor
    role: Tensor
    static: Tensor
    edges: Tensor
    node: Tensor
    layer: Tensor
    option: Tensor
    log_error: Tensor
    available: Tensor

    @classmethod
    def of(cls, header: Header) -> Self:
        """Of a store's denoiser and table of pairs (:mod:`qsd.ranker.joint`)."""
        graph = GraphFeatures.of(header)
        num_layers, num_options = header.num_bytes.shape
        node = torch.zeros(num_layers, dtype=torch.int64)
        places = graph.is_weight.nonzero().squeeze(1).flip(0)
        node[graph.layer[places]] = places  # the first use is written last
        available = torch.from_numpy(header.available)
        error = torch.from_numpy(header.relative_error).clamp_min(_SMALLEST_ERROR).log()
        return cls(
            kind=graph.kind,
            role=graph.role,
            static=_static(graph, header),
            edges=graph.edge_index,
            node=node,
            layer=torch.arange(num_layers).repeat_interleave(num_options),
            option=graph.option[node].flatten(0, 1),
            log_error=torch.where(available, error, 0.0).float().flatten(),
            available=available.flatten(),
        )

    @classmethod
    def joined(cls, graphs: Sequence["LayerGraph"]) -> Self:
        """Several graphs as one without edges between them."""
        nodes = np.cumsum([0, *(len(graph.kind) for graph in graphs)])
        layers = np.cumsum([0, *(len(graph.node) for graph in graphs)])
        parts = [
            dataclasses.replace(
                graph,
                edges=graph.edges + int(nodes[place]),
                node=graph.node + int(nodes[place]),
                layer=graph.layer + int(layers[place]),
            )
            for place, graph in enumerate(graphs)
        ]
        names = [field.name for field in dataclasses.fields(cls)]
        joined = {
            name: torch.cat([getattr(part, name) for part in parts], dim=1 if name == "edges" else 0)
            for name in names
        }
        return cls(**joined)


def _static(graph: GraphFeatures, header: Header) -> Tensor:
    static = graph.static.clone()
    weights = graph.is_weight
    for name in _RELATIVE:
        column = STATIC_FEATURES.index(name)
        static[weights, column] -= static[weights, column].mean()
    macs = np.array([layer.macs for layer in header.layers], dtype=np.float64)
    uses = np.zeros(len(macs))
    if (macs > 0).any():
        uses[macs > 0] = np.log(macs[macs > 0] / header.num_weights[macs > 0])
        uses[macs > 0] -= uses[macs > 0].mean()
    log_uses = torch.where(weights, torch.from_numpy(uses).float()[graph.layer], 0.0)
    degrees = [
        torch.bincount(end, minlength=graph.num_nodes).float().log1p() for end in graph.edge_index.flip(0)
    ]
    return torch.cat([static, torch.stack([log_uses, *degrees], dim=1)], dim=1)


def traits_text(option: Option) -> str:
    """What kind of option it is, in words that leave out its bits: options of one text differ in degree."""
    traits = option.traits
    words = [traits.grid, f"per {traits.scope}"]
    words += ["rotated"] if traits.rotated else []
    words += ["low-rank part"] if traits.rank else []
    return ", ".join(words)


__all__ = ["NODE_FEATURES", "OPTION_FEATURES", "LayerGraph", "traits_text"]
