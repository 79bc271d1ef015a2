"""Hop scores: what a graph network that learned to rank by its embeddings says of layers and modules.

The score of a subgraph is the standardized L1 norm of its output node's embedding after as many message
passing layers as the subgraph is deep, summed over members, each weighed by how well its hop ranks:
sum of w_k * (norm - mean_k) / std_k (Qua²SeDiMo, AAAI-25). A node's embedding after k layers depends on its
k-hop in-neighbourhood alone, so all combinations of a module's options are scored on that subgraph, exactly.
"""

import dataclasses
import itertools

import numpy as np
import torch

from qsd.denoisers.graph import Graph
from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.features import GraphFeatures
from qsd.search.task import Candidates
from qsd.store import Header
from qsd.support.errors import QsdError

MOST_COMBINATIONS = 8000
"""Of a module; with more, its layers keep the options of the best operation scores."""
_BATCH_NODES = 200_000


@dataclasses.dataclass(frozen=True)
class Module:
    """Layers that are chosen together.

    Attributes:
        layers: positions of its layers, in execution order.
        root: the node that its score is read at.
        hop: message passing layers until the root has seen all its layers (or as many as the network has).
    """

    layers: tuple[int, ...]
    root: int
    hop: int


def operation_scores(members: Ensemble, header: Header, store: int = 0) -> np.ndarray:
    """Scores of every option of every layer at hop 0, float64 [L, O].

    Args:
        members: trained with hop losses, calibrated.
        header: of the denoiser.
        store: its position among those that the members know.

    Raises:
        QsdError: no member's hop 0 ranks.
    """
    graph = GraphFeatures.of(header)
    _, first = np.unique(header.graph.layer_index, return_index=True)
    nodes = torch.from_numpy(first[-len(header.layers) :])  # the first node of each layer
    total = np.zeros(header.relative_error.shape)
    for member in members:
        with torch.inference_mode():
            norms = member.network.node_table(graph, store)[nodes].abs().sum(dim=-1)
        total += _standardized(member, norms, 0, store)
    _check(members, store, 0)
    return total


def module_scores(
    members: Ensemble, header: Header, available: np.ndarray, store: int = 0
) -> tuple[Candidates, ...]:
    """Scores of the combinations of options of every module.

    Args:
        members: trained with hop losses, calibrated.
        header: of the denoiser.
        available: bool [L, O].
        store: its position among those that the members know.
    """
    depth = next(iter(members)).network.settings.depth
    of_layers = np.where(available, operation_scores(members, header, store), -np.inf)
    base = of_layers.argmax(axis=1)
    return tuple(
        _scored(members, header, module, of_layers, base, store) for module in modules_of(header, depth)
    )


def modules_of(header: Header, depth: int) -> list[Module]:
    """The modules of a denoiser: per block, self-attention, the QK and the V and output layers of
    cross-attention, and the feed-forward; all other layers alone.

    Args:
        header: layers and graph.
        depth: message passing layers of the network.
    """
    groups: dict[tuple[int, str, int], list[int]] = {}
    for index, layer in enumerate(header.layers):
        kind = _module_kind(layer.role)
        alone = index if kind is None or layer.block < 0 else -1
        groups.setdefault((layer.block, kind or "", alone), []).append(index)
    return [_module(header.graph, tuple(layers), depth) for layers in groups.values()]


def _module_kind(role: str) -> str | None:
    match role.split("."):
        case ["self_attn", *_]:
            return "self_attn"
        case ["cross_attn", "q" | "k"]:
            return "cross_attn.qk"
        case ["cross_attn", *_]:
            return "cross_attn.vo"
        case ["ff", *_]:
            return "ff"
    return None


def _module(graph: Graph, layers: tuple[int, ...], depth: int) -> Module:
    """Its root is the first node that all its layers reach within the network's depth, else its last node."""
    wanted = [int(np.flatnonzero(graph.layer_index == layer)[0]) for layer in layers]
    if len(wanted) == 1:
        return Module(layers, wanted[0], 0)
    distance = np.full((len(wanted), graph.num_nodes), depth + 1)
    sources, targets = graph.edge_index
    for row, node in enumerate(wanted):
        distance[row, node] = 0
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):  # sorted by target
            distance[row, target] = min(distance[row, target], distance[row, source] + 1)
    reach = distance.max(axis=0)
    near = np.flatnonzero(reach <= depth)
    if len(near):
        root = int(near[np.argmin(reach[near])])
        return Module(layers, root, int(reach[root]))
    return Module(layers, max(wanted), depth)


def _scored(
    members: Ensemble, header: Header, module: Module, of_layers: np.ndarray, base: np.ndarray, store: int
) -> Candidates:
    options = _combinations(of_layers[list(module.layers)])
    graph, nodes = _neighbourhood(header, module.root, module.hop)
    root = int(np.flatnonzero(nodes == module.root)[0])
    configs = np.repeat(base[None, :], len(options), axis=0)
    configs[:, list(module.layers)] = options
    total = np.zeros(len(options))
    size = max(1, _BATCH_NODES // graph.num_nodes)
    for member in members:
        with torch.inference_mode():
            norms = torch.cat(
                [
                    member.network.embed(graph, part, store)[module.hop][:, root].abs().sum(dim=-1)
                    for part in torch.from_numpy(configs.astype(np.int64)).split(size)
                ]
            )
        total += _standardized(member, norms, module.hop, store)
    _check(members, store, module.hop)
    return Candidates(np.array(module.layers), options.astype(np.int8), total)


def _combinations(of_layers: np.ndarray) -> np.ndarray:
    """All combinations of available options of W layers, int64 [C, W]; of each layer's best, if too many."""
    choices = [np.flatnonzero(np.isfinite(row)) for row in of_layers]
    order = [
        some[np.argsort(-row[some], kind="stable")] for some, row in zip(choices, of_layers, strict=True)
    ]
    while np.prod([len(some) for some in order], dtype=float) > MOST_COMBINATIONS:
        longest = max(range(len(order)), key=lambda place: len(order[place]))
        order[longest] = order[longest][:-1]
    return np.array(list(itertools.product(*order)))


def _neighbourhood(header: Header, root: int, hop: int) -> tuple[GraphFeatures, np.ndarray]:
    """The graph induced by all nodes that reach the root in at most ``hop`` steps, and these nodes."""
    whole = GraphFeatures.of(header)
    sources, targets = header.graph.edge_index
    inside = np.zeros(whole.num_nodes, dtype=bool)
    inside[root] = True
    for _ in range(hop):
        inside[sources[inside[targets]]] = True
    nodes = np.flatnonzero(inside)
    place = np.cumsum(inside) - 1
    kept = inside[sources] & inside[targets]
    chosen = torch.from_numpy(nodes)
    moved = {
        name: getattr(whole, name)[chosen]
        for name in ("kind", "role", "static", "option", "layer", "is_weight", "is_output")
    }
    edges = torch.from_numpy(place[header.graph.edge_index[:, kept]])
    return dataclasses.replace(whole, edge_index=edges, **moved), nodes


def _standardized(member: Member, norms: torch.Tensor, hop: int, store: int) -> np.ndarray:
    centred = (norms.double() - member.hop_mean[store, hop]) / member.hop_std[store, hop]
    return (member.hop_weight[store, hop] * centred).cpu().numpy()


def _check(members: Ensemble, store: int, hop: int) -> None:
    if not any(float(member.hop_weight[store, hop]) > 0 for member in members):
        raise QsdError(
            f"ranker: its hop {hop} does not rank; train one as the paper does "
            "(`lightning fit --config pixart_paper.yaml`)"
        )
