"""Members trained on different folds, and what they predict together."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from qsd.data import StoreData
from qsd.features import GraphFeatures
from qsd.ranker.metrics import ndcg_at_10, spearman
from qsd.ranker.network import GraphRanker, NetworkSettings, Prediction


class Member(nn.Module):
    """A network and the scales of its training records, so that it predicts in the target's own units.

    S stores, T targets, H hops.

    Attributes:
        network: the graph network, which works on standardized targets.
        target_mean, target_std: float32 [S, T], over the member's training records.
        relevance_low, relevance_high: float32 [S], 20 % quantile and maximum of the standardized target.
        hop_mean, hop_std: float32 [S, H], of the hop norms over the member's training records.
        hop_weight: float32 [S, H], Spearman times NDCG of each hop's norm on the member's validation records,
            0 for a hop that ranks the wrong way round; the weights of hop scores (Qua²SeDiMo, AAAI-25).
    """

    target_mean: Tensor
    target_std: Tensor
    relevance_low: Tensor
    relevance_high: Tensor
    hop_mean: Tensor
    hop_std: Tensor
    hop_weight: Tensor

    def __init__(self, settings: NetworkSettings, graphs: Sequence[GraphFeatures], num_targets: int) -> None:
        super().__init__()
        self.network = GraphRanker(settings, graphs, num_targets)
        stores, hops = len(graphs), settings.depth + 1
        shapes = {
            "target_mean": (stores, num_targets),
            "target_std": (stores, num_targets),
            "relevance_low": (stores,),
            "relevance_high": (stores,),
            "hop_mean": (stores, hops),
            "hop_std": (stores, hops),
            "hop_weight": (stores, hops),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape) if name.endswith("std") else torch.zeros(shape))

    def fit_scales(self, store: int, targets: Tensor) -> None:
        """Takes the scales of targets float [n, T] (NaN where missing), training records only."""
        for column, values in enumerate(targets.double().T):
            present = values[values.isfinite()]
            if len(present):
                self.target_mean[store, column] = present.mean()
                self.target_std[store, column] = present.std(correction=0).clamp_min(1e-12)
        first = self.standardized(store, targets)[:, 0]
        self.relevance_low[store] = first.quantile(0.2)
        self.relevance_high[store] = first.max()

    @torch.no_grad()
    def fit_hops(self, store: int, data: StoreData, member: int) -> None:
        """Takes mean, spread and weight of each hop's norms, after training.

        Args:
            store: position of the store.
            data: its records.
            member: position of this member, which decides its training and validation records.
        """
        inside, outside = data.training_rows(member), data.validation_rows(member)
        norms = self.network(data.graph, data.configs[inside], store).norms
        self.hop_mean[store] = norms.mean(dim=1)
        self.hop_std[store] = norms.std(dim=1, correction=0).clamp_min(1e-12)
        norms = self.network(data.graph, data.configs[outside], store).norms.double().cpu().numpy()
        target = data.targets[outside, 0].double().cpu().numpy()
        weights = [max(spearman(target, norm), 0.0) * ndcg_at_10(target, norm) for norm in norms]
        self.hop_weight[store] = torch.tensor(weights)

    def standardized(self, store: int, targets: Tensor) -> Tensor:
        """Targets float [..., T] in standard deviations from the training mean."""
        return (targets - self.target_mean[store]) / self.target_std[store]

    def forward(self, graph: GraphFeatures, configs: Tensor, store: int = 0) -> Prediction:
        """The network's standardized prediction for configs [B, L]."""
        return self.network(graph, configs, store)

    def score(self, graph: GraphFeatures, configs: Tensor, store: int = 0) -> Tensor:
        """Predicted target of configs [B, L] in its own units, float [B]."""
        outputs = self.network(graph, configs, store).outputs[:, 0]
        return outputs * self.target_std[store, 0] + self.target_mean[store, 0]


class Ensemble(nn.ModuleList):
    """K members. Their mean is the prediction, their disagreement its spread."""

    def __iter__(self) -> Iterator[Member]:
        return super().__iter__()  # type: ignore[return-value]

    def score(self, graph: GraphFeatures, configs: Tensor, store: int = 0) -> Tensor:
        """What each member predicts for configs [B, L], float [K, B]."""
        return torch.stack([member.score(graph, configs, store) for member in self])
