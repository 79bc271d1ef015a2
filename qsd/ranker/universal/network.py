"""The network: a traced graph in, the log energy and the direction of every option's change out."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, GINConv, GraphConv, SAGEConv, TransformerConv

from qsd.ranker.features import KINDS, NODE_ROLES
from qsd.ranker.universal.graphs import NODE_FEATURES, OPTION_FEATURES, LayerGraph
from qsd.support.errors import QsdError

SPACES = ("latents", "features", "mean_features")
"""In which changes are predicted (:class:`qsd.store.Responses`)."""
UNKNOWN_ROLE = len(NODE_ROLES)
_FARTHEST = 4.0  # standard deviations; features beyond are taken for that


@dataclasses.dataclass(frozen=True)
class UniversalSettings:
    """Architecture.

    Attributes:
        conv: message passing of PyG (see :class:`qsd.ranker.network.NetworkSettings`); none leaves every node
            alone with its own features.
        width: of embeddings.
        depth: layers of message passing, or without it of a network over each node.
        heads: of gatv2 and transformer.
        direction: along the data, against it, or both by layers of their own.
        readout: what the heads read of a node: its last embedding, or those after every layer.
        dropout: of embeddings.
        role_dropout: share of nodes whose role is hidden in training, so that unseen ones can be met.
        rank: of the embedding whose inner products are cosines of changes.
    """

    conv: Literal["sage", "gatv2", "graphconv", "gin", "transformer", "none"] = "sage"
    width: int = 32
    depth: int = 2
    heads: int = 4
    direction: Literal["forward", "backward", "both"] = "both"
    readout: Literal["last", "all"] = "last"
    dropout: float = 0.1
    role_dropout: float = 0.1
    rank: int = 8

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.rank) < 1 or self.depth < 0 or self.width % self.heads:
            raise QsdError(
                f"network: width {self.width} must be a multiple of heads {self.heads}, rank at least 1"
            )
        if not (0 <= self.dropout < 1 and 0 <= self.role_dropout < 1):
            raise QsdError("network: dropout and role_dropout must be from 0 to below 1")


class ResponseNetwork(nn.Module):
    """Predicts changes, S spaces (:data:`SPACES`).

    Energies are squared lengths. To first order the energy of an option is the square of its relative error
    times the gain of the layer, so the network predicts the logarithm of the gain.

    Attributes:
        space_logits: [S], softmax of how much each space's log energy says about the target.
    """

    static_mean: Tensor
    static_std: Tensor
    option_mean: Tensor
    option_std: Tensor

    def __init__(self, settings: UniversalSettings) -> None:
        super().__init__()
        self.settings = settings
        width, spaces = settings.width, len(SPACES)
        for name, count in (("static", len(NODE_FEATURES)), ("option", len(OPTION_FEATURES))):
            self.register_buffer(f"{name}_mean", torch.zeros(count))
            self.register_buffer(f"{name}_std", torch.ones(count))
        self.enter = nn.Linear(len(NODE_FEATURES), width)
        self.kind = nn.Embedding(len(KINDS), width)
        self.role = nn.Embedding(UNKNOWN_ROLE + 1, width)
        for table in (self.kind, self.role):
            nn.init.normal_(table.weight, std=0.3)
        ways = 2 if settings.direction == "both" else 1
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(settings.depth))
        self.convs = nn.ModuleList(
            nn.ModuleList(_conv(settings) for _ in range(ways if settings.conv != "none" else 0))
            for _ in range(settings.depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(settings.depth + 1))
        self.dropout = nn.Dropout(settings.dropout)
        read = width * (settings.depth + 1 if settings.readout == "all" else 1)
        both = read + len(OPTION_FEATURES)
        self.gain = nn.Linear(read, spaces)
        last = nn.Linear(width, spaces)
        nn.init.zeros_(last.weight)
        self.of_option = nn.Sequential(nn.Linear(both, width), nn.SiLU(), nn.Dropout(settings.dropout), last)
        self.direction = nn.Sequential(
            nn.Linear(both, width), nn.SiLU(), nn.Linear(width, spaces * (settings.rank + 1))
        )
        self.space_logits = nn.Parameter(torch.zeros(spaces))

    def fit_scales(self, graph: LayerGraph) -> None:
        """Takes mean and standard deviation of features from the training graphs."""
        options = graph.option[graph.available]
        for name, values in (("static", graph.static), ("option", options)):
            getattr(self, f"{name}_mean").copy_(values.mean(dim=0))
            getattr(self, f"{name}_std").copy_(values.std(dim=0, correction=0).clamp_min(1e-2))

    def forward(self, graph: LayerGraph) -> tuple[Tensor, Tensor]:
        """Predicts.

        Returns:
            Natural logarithm of energies, float [R, S], and embeddings of length below 1, [R, S, rank]: the
            inner product of two is the expected cosine of the changes of different layers.
        """
        hidden = self._embedded(graph)[graph.node]
        gain = self.gain(hidden)[graph.layer]
        option = _standardized(graph.option, self.option_mean, self.option_std)
        both = torch.cat([hidden[graph.layer], option], dim=1)
        log_energy = 2 * graph.log_error.unsqueeze(1) + gain + self.of_option(both)
        raw = self.direction(both).view(len(both), len(SPACES), -1)
        length = torch.sigmoid(raw[..., -1:] - 2)
        return log_energy, F.normalize(raw[..., :-1], dim=-1) * length

    @property
    def space_weights(self) -> Tensor:
        """How much each space says, [S], of sum 1."""
        return self.space_logits.softmax(dim=0)

    def _embedded(self, graph: LayerGraph) -> Tensor:
        role = graph.role
        if self.training and self.settings.role_dropout:
            hidden_role = torch.rand(len(role), device=role.device) < self.settings.role_dropout
            role = torch.where(hidden_role, UNKNOWN_ROLE, role)
        static = _standardized(graph.static, self.static_mean, self.static_std)
        hidden = self.norms[0](self.enter(static) + self.role(role) + self.kind(graph.kind))
        ways = [graph.edges, graph.edges.flip(0)]
        if self.settings.direction != "both":
            ways = ways[:1] if self.settings.direction == "forward" else ways[1:]
        hops = [hidden]
        for own, convs, norm in zip(self.own, self.convs, self.norms[1:], strict=True):
            update = own(hops[-1])
            assert isinstance(convs, nn.ModuleList)
            for conv, edges in zip(convs, ways, strict=False):
                update = update + conv(hops[-1], edges)
            hops.append(hops[-1] + self.dropout(F.silu(norm(update))))
        return torch.cat(hops, dim=1) if self.settings.readout == "all" else hops[-1]


def log_length(log_energy: Tensor, embedding: Tensor, configs: Tensor) -> Tensor:
    """Logarithm of the squared length of the summed change of configs.

    Args:
        log_energy: float [L, O, S].
        embedding: float [L, O, S, k].
        configs: int64 [n, L].

    Returns:
        float [n, S].
    """
    layers = torch.arange(len(log_energy), device=configs.device)
    energy = log_energy[layers, configs]
    directions = embedding[layers, configs]
    shared = ((energy / 2).exp().unsqueeze(-1) * directions).sum(dim=1).square().sum(dim=-1)
    own = (energy.exp() * (1 - directions.square().sum(dim=-1))).sum(dim=1)
    return (shared + own).clamp_min(1e-30).log()


def _standardized(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return ((values - mean) / std).clamp(-_FARTHEST, _FARTHEST)


def _conv(settings: UniversalSettings) -> nn.Module:
    width, heads = settings.width, settings.heads
    match settings.conv:
        case "sage":
            return SAGEConv(width, width, root_weight=False)
        case "gatv2":
            return GATv2Conv(width, width // heads, heads, add_self_loops=False)
        case "graphconv":
            return GraphConv(width, width, aggr="mean")
        case "gin":
            return GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))
        case _:
            return TransformerConv(width, width // heads, heads)
