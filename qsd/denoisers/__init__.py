"""A diffusers denoiser seen as weight layers (roles, segments, ties) and as a traced graph."""

from qsd.denoisers.accounting import Holdings, holdings
from qsd.denoisers.graph import COMBINE_KINDS, WEIGHT, Graph, Node
from qsd.denoisers.input_files import load_inputs, save_inputs
from qsd.denoisers.layers import WeightLayer, tie_equal_weights
from qsd.denoisers.recording import record_inputs
from qsd.denoisers.roles import ROLES
from qsd.denoisers.tracing import Traced, chain_graph, trace, weight_layers
from qsd.denoisers.whole import GraphKind, trace_whole

__all__ = [
    "COMBINE_KINDS",
    "ROLES",
    "WEIGHT",
    "Graph",
    "GraphKind",
    "Holdings",
    "Node",
    "Traced",
    "WeightLayer",
    "chain_graph",
    "holdings",
    "load_inputs",
    "record_inputs",
    "save_inputs",
    "tie_equal_weights",
    "trace",
    "trace_whole",
    "weight_layers",
]
