"""What layers and graphs that were read from a file must fulfil."""

import math
from collections.abc import Sequence

from qsd.denoisers.graph import Graph
from qsd.denoisers.layers import WeightLayer

_MOST_WEIGHTS = 2**45


def check_layers(layers: Sequence[WeightLayer], graph: Graph) -> None:
    """Checks layers by themselves and the nodes of a graph against them.

    Raises:
        ValueError: two layers of one name, a shape or segment that cannot be, or a node of no layer.
    """
    if len({layer.name for layer in layers}) != len(layers):
        raise ValueError("two layers have one name")
    for layer in layers:
        if not 1 <= len(layer.shape) <= 8 or not all(1 <= size <= _MOST_WEIGHTS for size in layer.shape):
            raise ValueError(f"layer '{layer.name}' has shape {list(layer.shape)}")
        if math.prod(layer.shape) > _MOST_WEIGHTS:
            raise ValueError(f"layer '{layer.name}' has more than {_MOST_WEIGHTS} weights")
        if layer.segment is not None and not 0 <= layer.segment[0] < layer.segment[1]:
            raise ValueError(f"layer '{layer.name}' has segment {list(layer.segment)}")
    for node in graph.nodes:
        if not -1 <= node.layer < len(layers):
            raise ValueError(f"node '{node.name}' belongs to no layer")
