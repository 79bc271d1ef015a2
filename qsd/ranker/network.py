"""The graph network: configs in, predicted quality and rankable hop embeddings out. Needs no Lightning."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, GINConv, GraphConv, PNAConv, SAGEConv, TransformerConv
from torch_geometric.utils import degree

from qsd.ranker.features import KINDS, NODE_ROLES, OPTION_FEATURES, STATIC_FEATURES, GraphFeatures
from qsd.ranker.propagation import linear_maps, propagate, rows_of

ConvName = Literal["gatv2", "gin", "sage", "graphconv", "pna", "transformer"]


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """Architecture of a :class:`GraphRanker`.

    Attributes:
        conv: message-passing layer, one of PyG's: gatv2 (Brody et al. 2022), gin (Xu et al. 2019), sage
            (Hamilton et al. 2017), graphconv (Morris et al. 2019), pna (Corso et al. 2020), transformer
            (Shi et al. 2021).
        width: size of node embeddings; a multiple of ``heads``.
        depth: number of message-passing layers, the largest hop.
        heads: attention heads of gatv2 and transformer.
        residual: adds a layer's input to its output.
        norm: normalization after each layer.
        dropout: on the graph embedding that the head reads.
        pooling: nodes that a graph embedding averages at hops above 0 ("outputs": last node of each block);
            hop 0 always averages the weight nodes.
        both_directions: messages also flow against the data; the k-hop neighbourhood of a node is then
            undirected.
        layer_embedding: gives every weight layer of a known denoiser a learned vector per option.
        closed_form: what the prediction starts from, fitted without gradient descent; the network learns what
            it misses. "additive": contributions per layer (:mod:`qsd.ranker.additive`); "responses": a
            Gaussian process on what options do alone (:mod:`qsd.ranker.responses`) where the store was
            probed, else contributions.
        graph_head: whether the network predicts at all; without it an "additive" ranker is exactly that.
    """

    conv: ConvName = "gatv2"
    width: int = 48
    depth: int = 3
    heads: int = 4
    residual: bool = True
    norm: Literal["batch", "layer", "none"] = "layer"
    dropout: float = 0.0
    pooling: Literal["all", "weights", "outputs"] = "all"
    both_directions: bool = False
    layer_embedding: bool = False
    closed_form: Literal["none", "additive", "responses"] = "responses"
    graph_head: bool = True


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network says about B configs.

    Attributes:
        outputs: float [B, T], standardized targets; column 0 is the one to rank by.
        norms: float [depth + 1, B], L1 norms of the hop embeddings.
    """

    outputs: Tensor
    norms: Tensor


class GraphRanker(nn.Module):
    """Scores configs of one or several denoisers.

    A node starts as a function of its static features and, for a weight node, of its option: that is a table
    [N, O, width], so a batch of configs is a gather from it. Message passing follows; the hop-k embedding of
    a config is the mean of node embeddings after k layers.

    Args:
        settings: the architecture.
        graphs: the denoisers to be ranked; each has parameters of its own if ``layer_embedding``.
        num_targets: T, columns predicted.
        nodes_per_batch: configs are embedded so many nodes at a time, to stay in the cache of a CPU core.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        graphs: Sequence[GraphFeatures],
        num_targets: int = 1,
        nodes_per_batch: int = 20_000,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.nodes_per_batch = nodes_per_batch
        self.num_targets = num_targets
        width = settings.width
        num_features = len(STATIC_FEATURES) + len(OPTION_FEATURES)
        self.kind = nn.Embedding(len(KINDS), width)
        self.role = nn.Embedding(len(NODE_ROLES), width)
        self.features = nn.Linear(num_features, width)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
        self.layer_tables = nn.ParameterList(
            nn.Parameter(torch.zeros(graph.num_layers, graph.num_options, width))
            for graph in graphs
            if settings.layer_embedding
        )
        self.convs = nn.ModuleList(_conv(settings, graphs) for _ in range(settings.depth))
        self.norms = nn.ModuleList(_norm(settings) for _ in range(settings.depth))
        if settings.graph_head:
            pooled = (settings.depth + 1) * width
            self.pool_norm = nn.BatchNorm1d(pooled, affine=False)
            self.dropout = nn.Dropout(settings.dropout)
            last = nn.Linear(width, num_targets)
            self.linear_head = nn.Linear(pooled, num_targets)
            for linear in (last, self.linear_head):  # starts from the closed-form part alone
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
            self.head = nn.Sequential(nn.Linear(pooled, width), nn.SiLU(), last)

    def forward(self, graph: GraphFeatures, configs: Tensor, store: int = 0) -> Prediction:
        """Predicts.

        Args:
            graph: features of the denoiser, on the device of the parameters.
            configs: int8 or int64 [B, L].
            store: position of the denoiser among the ``graphs`` given at construction.
        """
        tables = self._tables(graph, store)
        size = max(1, self.nodes_per_batch // graph.num_nodes)
        hops = [self._pooled(graph, tables, part) for part in configs.long().split(size)]
        pooled = torch.cat(hops, dim=1)  # [depth + 1, B, width]
        outputs = pooled.new_zeros(len(configs), self.num_targets)
        if self.settings.graph_head:
            flat = self.dropout(self.pool_norm(pooled.transpose(0, 1).flatten(1)))
            outputs = self.head(flat) + self.linear_head(flat)
        return Prediction(outputs, pooled.abs().sum(dim=-1))

    def node_table(self, graph: GraphFeatures, store: int = 0) -> Tensor:
        """Initial embeddings of every node under every option, nonnegative, float [N, O, width]."""
        static = graph.static.unsqueeze(1).expand(-1, graph.num_options, -1)
        hidden = self.features(torch.cat([static, graph.option], dim=-1))
        hidden = self.mix(hidden + (self.kind(graph.kind) + self.role(graph.role)).unsqueeze(1))
        if self.settings.layer_embedding:
            own = self.layer_tables[store][graph.layer]
            hidden = hidden + torch.where(graph.is_weight.view(-1, 1, 1), own, 0.0)
        return torch.relu(hidden)

    def embed(self, graph: GraphFeatures, configs: Tensor, store: int = 0) -> list[Tensor]:
        """Node embeddings after 0, 1, ..., depth layers, each float [B, N, width]."""
        hops = self._embed(graph, self._tables(graph, store), configs.long())
        return [hop.transpose(0, 1) for hop in hops]

    def table_penalty(self, store: int = 0) -> Tensor:
        """Sum of squares of the parameters that one store owns, scalar."""
        if not self.settings.layer_embedding:
            return torch.zeros((), device=self.features.weight.device)
        return self.layer_tables[store].square().sum()

    def _tables(self, graph: GraphFeatures, store: int) -> list[Tensor]:
        """Initial embeddings, and what the first layer maps them to, each float [N * O, width]."""
        table = self.node_table(graph, store).flatten(0, 1)
        return [table, *(mapped for conv in self.convs[:1] for mapped in linear_maps(conv, table))]

    def _embed(self, graph: GraphFeatures, tables: list[Tensor], configs: Tensor) -> list[Tensor]:
        """Node embeddings after 0, 1, ..., depth layers, each float [N, b, width]."""
        options = configs.T[graph.layer] * graph.is_weight.unsqueeze(1)  # a combine node has row 0, always
        rows = torch.arange(graph.num_nodes, device=configs.device).unsqueeze(1) * graph.num_options + options
        hidden, *mapped = (rows_of(table, rows.flatten()).view(*rows.shape, -1) for table in tables)
        hops = [hidden]
        edges = graph.edges(self.settings.both_directions)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            update = propagate(conv, hops[-1], edges, mapped if len(hops) == 1 else ())
            update = norm(update.flatten(0, 1)).relu_().view_as(update)
            hops.append(update + hops[-1] if self.settings.residual else update)
        return hops

    def _pooled(self, graph: GraphFeatures, tables: list[Tensor], configs: Tensor) -> Tensor:
        """Hop embeddings, float [depth + 1, b, width]."""
        everywhere = torch.ones_like(graph.is_weight)
        masks = {"all": everywhere, "weights": graph.is_weight, "outputs": graph.is_output}
        first, *later = self._embed(graph, tables, configs)
        pooled = [_mean(first, graph.is_weight)]
        pooled += [_mean(hop, masks[self.settings.pooling]) for hop in later]
        return torch.stack(pooled)


def _mean(hop: Tensor, mask: Tensor) -> Tensor:
    """Mean over the nodes of a mask, float [b, width]; a product, because a selection would copy."""
    share = mask.to(hop.dtype) / mask.sum()
    return (share @ hop.flatten(1)).view(hop.shape[1:])


def _conv(settings: NetworkSettings, graphs: Sequence[GraphFeatures]) -> nn.Module:
    width, heads = settings.width, settings.heads
    match settings.conv:
        case "gatv2":
            # a residual already carries what a self-loop would, at a third of the edges less
            return GATv2Conv(width, width // heads, heads, add_self_loops=not settings.residual)
        case "gin":
            return GINConv(
                nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)), node_dim=0
            )
        case "sage":
            return SAGEConv(width, width, node_dim=0)
        case "graphconv":
            return GraphConv(width, width, aggr="mean", node_dim=0)
        case "pna":
            return PNAConv(
                width,
                width,
                aggregators=["mean", "min", "max", "std"],
                scalers=["identity", "amplification", "attenuation"],
                deg=_degree_histogram(graphs, settings.both_directions),
            )
        case "transformer":
            return TransformerConv(width, width // heads, heads)


def _norm(settings: NetworkSettings) -> nn.Module:
    kinds = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    return kinds[settings.norm](settings.width) if settings.norm in kinds else nn.Identity()


def _degree_histogram(graphs: Sequence[GraphFeatures], both_directions: bool) -> Tensor:
    """Nodes by in-degree over all graphs, int64 [largest degree + 1]; PNA scales by it."""
    degrees = [degree(graph.edges(both_directions)[1], graph.num_nodes, dtype=torch.long) for graph in graphs]
    return torch.bincount(torch.cat(degrees))
