"""The graph of a denoiser: weight layers and the operations that join their outputs."""

import dataclasses
from typing import Any, Self

import numpy as np

from qsd.support.errors import QsdError

WEIGHT = "weight"
COMBINE_KINDS = ("add", "mul", "modulate", "concat", "qk", "sv", "matmul", "norm", "join")
"""What a node that is no weight does with its inputs.

``modulate`` is scale-and-shift by one conditioning path (AdaLN), ``mul`` an elementwise product (gates),
``qk`` the product of queries and keys, ``sv`` of attention scores and values, ``matmul`` any other product
of two activations (linear attention), ``norm`` a normalization that two paths enter, ``join`` any other
operation that two or more paths enter.
"""


@dataclasses.dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: unique; a weight node carries the name of its layer (with ``@2``, ``@3``, ... on later uses
            of a layer that is used on different inputs).
        kind: "weight", or one of :data:`COMBINE_KINDS`.
        layer: index into the weight layers (bank order), -1 for a combine node.
        role: role of the layer; of a combine node ``self_attn.qk`` and the like, or its kind.
        block: see :class:`qsd.denoisers.layers.WeightLayer`.
        stage: likewise.
        depth: likewise.
    """

    name: str
    kind: str
    layer: int
    role: str
    block: int
    stage: int
    depth: float


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A directed acyclic graph whose nodes stand in execution (hence topological) order.

    Attributes:
        nodes: N nodes.
        edge_index: int64 [2, E], sources and targets, sorted by target and then source.
    """

    nodes: tuple[Node, ...]
    edge_index: np.ndarray

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.nodes)

    @property
    def num_edges(self) -> int:
        """E."""
        return int(self.edge_index.shape[1])

    @property
    def layer_index(self) -> np.ndarray:
        """Weight-layer index of each node, int64 [N], -1 for combine nodes."""
        return np.array([node.layer for node in self.nodes], dtype=np.int64)

    @property
    def output(self) -> int:
        """Index of the node without successors."""
        return int(np.setdiff1d(np.arange(self.num_nodes), self.edge_index[0])[0])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Graph)
            and self.nodes == other.nodes
            and np.array_equal(self.edge_index, other.edge_index)
        )

    def __hash__(self) -> int:
        return hash((self.nodes, self.edge_index.tobytes()))

    def to_json(self) -> list[dict[str, Any]]:
        """The nodes as JSON objects; the edges are stored beside them as the array they are."""
        return [dataclasses.asdict(node) for node in self.nodes]

    @classmethod
    def from_json(cls, nodes: list[dict[str, Any]], edge_index: np.ndarray) -> Self:
        """Restores a graph from :meth:`to_json` and the edges.

        Raises:
            QsdError: a node is malformed, or an edge does not point forward between existing nodes.
        """
        try:
            restored = tuple(Node(**node) for node in nodes)
        except TypeError as error:
            raise QsdError(f"malformed graph node: {error}; the file is not of this version") from error
        edges = np.asarray(edge_index, dtype=np.int64)
        if edges.ndim != 2 or edges.shape[0] != 2:
            raise QsdError(f"edges of shape {edges.shape} instead of [2, E]; the file is damaged")
        if edges.size and not (
            edges.min() >= 0 and edges.max() < len(restored) and np.all(edges[0] < edges[1])
        ):
            raise QsdError("an edge points backwards or to no node; the file is damaged")
        return cls(restored, edges)
