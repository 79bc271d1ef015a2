"""Message passing of a batch of configs: all are copies of one graph, so its edges are never repeated.

Embeddings are node-major, [N, B, width]: what moves along an edge is one contiguous row of B * width floats,
which a CPU copies and adds many times faster than B rows scattered over B copies of the graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, PNAConv, TransformerConv
from torch_geometric.utils import softmax


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` of a matrix; with many short rows its gradient is far cheaper than an embedding's."""
    return table.gather(0, index.unsqueeze(1).expand(-1, table.shape[1]))


def linear_maps(conv: nn.Module, table: Tensor) -> tuple[Tensor, ...]:
    """The maps that a layer begins with, of embeddings [R, width]; none if it begins otherwise.

    Initial embeddings are rows of a small table: mapping the table once is cheaper than mapping a batch.
    """
    return (conv.lin_l(table), conv.lin_r(table)) if isinstance(conv, GATv2Conv) else ()


def propagate(conv: nn.Module, hidden: Tensor, edges: Tensor, mapped: Sequence[Tensor] = ()) -> Tensor:
    """What a PyG layer makes of B copies of a graph.

    Args:
        conv: the layer; one that is not named here aggregates along its ``node_dim``, which must be 0.
        hidden: float [N, B, width].
        edges: int64 [2, E], of one copy.
        mapped: the :func:`linear_maps` of ``hidden``, each float [N, B, width], where they are known.

    Returns:
        float [N, B, width], equal to the layer on the disjoint union of the copies.
    """
    match conv:
        case GATv2Conv():
            return _attend(conv, hidden, edges, mapped)
        case PNAConv() | TransformerConv():  # written for two dimensions alone
            return _flattened(conv, hidden, edges)
    return conv(hidden, edges)


def _attend(conv: GATv2Conv, hidden: Tensor, edges: Tensor, mapped: Sequence[Tensor]) -> Tensor:
    """GATv2 (Brody et al. 2022) with the parameters of PyG's layer.

    An edge that is the only one into its node has share 1 whatever its score; only the others are scored.
    Sums over the channels of a head, and copies to them, are products with a matrix of ones and zeros: loops
    over the few channels of one head would cost several times more.
    """
    num_nodes, num_copies, width = hidden.shape
    if conv.add_self_loops:
        edges = torch.cat([edges, torch.arange(num_nodes, device=edges.device).expand(2, -1)], dim=1)
    contested = edges[1].bincount(minlength=num_nodes) > 1
    scored = contested[edges[1]]
    place = contested.cumsum(0) - 1  # of a contested node among them
    target = place[edges[1, scored]]
    heads = torch.eye(conv.heads, device=hidden.device, dtype=hidden.dtype)
    heads = heads.repeat_interleave(conv.out_channels, dim=1)  # [heads, width]

    chosen = contested.nonzero()[:, 0]
    if mapped:
        values, queries = (each.flatten(1) for each in mapped)
        queries = queries.index_select(0, chosen)
    else:
        values = conv.lin_l(hidden).flatten(1)
        queries = conv.lin_r(hidden.index_select(0, chosen)).flatten(1)
    messages = values.index_select(0, edges[0, scored])
    scores = messages + queries.index_select(0, target)
    scores = nn.functional.leaky_relu(scores, conv.negative_slope, inplace=True)
    scores = nn.functional.linear(scores.view(-1, width), conv.att.flatten() * heads)
    shares = softmax(scores.view(len(target), num_copies * conv.heads), target, num_nodes=num_nodes)
    weighted = messages * (shares.view(-1, conv.heads) @ heads).view_as(messages)

    summed = conv.bias.repeat(num_nodes, num_copies)
    summed.index_add_(0, edges[1, scored], weighted)
    summed.index_add_(0, edges[1, ~scored], values.index_select(0, edges[0, ~scored]))
    return summed.view_as(hidden)


def _flattened(conv: nn.Module, hidden: Tensor, edges: Tensor) -> Tensor:
    num_copies = hidden.shape[1]
    copies = torch.arange(num_copies, device=edges.device)
    repeated = (edges.unsqueeze(-1) * num_copies + copies).flatten(1)
    return conv(hidden.flatten(0, 1), repeated).view_as(hidden)
