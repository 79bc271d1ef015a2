"""A diffusers denoiser seen as weight layers (roles, segments, ties) and as a traced graph."""

from qsd.denoisers.graph import COMBINE_KINDS, WEIGHT, Graph, Node
from qsd.denoisers.layers import WeightLayer, tie_equal_weights
from qsd.denoisers.roles import ROLES
from qsd.denoisers.tracing import Traced, chain_graph, trace, weight_layers

__all__ = [
    "COMBINE_KINDS",
    "ROLES",
    "WEIGHT",
    "Graph",
    "Node",
    "Traced",
    "WeightLayer",
    "chain_graph",
    "tie_equal_weights",
    "trace",
    "weight_layers",
]
