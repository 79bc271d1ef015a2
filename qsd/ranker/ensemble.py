"""Members trained on different folds, and what they predict together."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from qsd.ranker.additive import AdditiveModel, fit_additive_model
from qsd.ranker.features import GraphFeatures
from qsd.ranker.metrics import ndcg_at_10, spearman
from qsd.ranker.network import GraphRanker, NetworkSettings, Prediction
from qsd.ranker.responses import ResponseSettings, fit_response_model, predict
from qsd.ranker.store_data import StoreData
from qsd.ranker.warping import unwarp, warp

_SIGNIFICANT = 2.0  # standard errors
_RESPONSES = ("change", "scale", "slope", "constant", "known", "form", "weight")


class Member(nn.Module):
    """A network and the scales of its training records, so that it predicts in the target's own units.

    S stores, T targets, H hops. Targets are standardized, and the first one is warped as well: it is on the
    scale on which damage adds up (:mod:`qsd.ranker.warping`).

    Args:
        settings: architecture of the network.
        graphs: features of the stores' denoisers.
        num_targets: T.

    Attributes:
        network: the graph network, which works on warped targets.
        target_mean, target_std: float32 [S, T], over the member's training records.
        power: float32 [S], of the warping of the first target.
        target_low, target_high: float32 [S], range of the standardized first target.
        relevance_low: float32 [S], its 20 % quantile.
        hop_mean, hop_std: float32 [S, H], of the hop norms over the member's training records.
        hop_weight: float32 [S, H], Spearman times NDCG of each hop's norm on the member's validation records,
            0 for a hop that ranks the wrong way round; the weights of hop scores (Qua²SeDiMo, AAAI-25).
        graph_share: float32 [S], 0 to 1, share of the network's correction that is added.
        additive_0, additive_1, ...: float32 [L, O], additive contributions on the warped scale, by store
            (:class:`qsd.ranker.additive.AdditiveModel`).
        change_0, scale_0, slope_0, constant_0, known_0, form_0, weight_0, ...: those of a
            :class:`qsd.ranker.responses.ResponseModel` in float32, empty where there is none.
    """

    target_mean: Tensor
    target_std: Tensor
    power: Tensor
    target_low: Tensor
    target_high: Tensor
    relevance_low: Tensor
    hop_mean: Tensor
    hop_std: Tensor
    hop_weight: Tensor
    graph_share: Tensor

    def __init__(
        self,
        settings: NetworkSettings,
        graphs: Sequence[GraphFeatures],
        num_targets: int,
    ) -> None:
        super().__init__()
        self.network = GraphRanker(settings, graphs, num_targets)
        stores, hops = len(graphs), settings.depth + 1
        shapes: dict[str, tuple[int, ...]] = {
            "target_mean": (stores, num_targets),
            "target_std": (stores, num_targets),
            "power": (stores,),
            "target_low": (stores,),
            "target_high": (stores,),
            "relevance_low": (stores,),
            "hop_mean": (stores, hops),
            "hop_std": (stores, hops),
            "hop_weight": (stores, hops),
            "graph_share": (stores,),
        }
        for name, shape in shapes.items():
            self.register_buffer(
                name, torch.ones(shape) if name.endswith(("std", "share")) else torch.zeros(shape)
            )
        for store, graph in enumerate(graphs):
            self.register_buffer(f"additive_{store}", torch.zeros(graph.num_layers, graph.num_options))
            for name in _RESPONSES:
                self.register_buffer(f"{name}_{store}", torch.zeros(0))
        self.register_load_state_dict_pre_hook(_make_room)

    def fit_scales(self, store: int, targets: Tensor) -> None:
        """Takes the scales of targets float [n, T] (NaN where missing), training records only."""
        for column, values in enumerate(targets.double().T):
            present = values[values.isfinite()]
            if len(present):
                self.target_mean[store, column] = present.mean()
                self.target_std[store, column] = present.std(correction=0).clamp_min(1e-12)
        first = self.standardized(store, targets)[:, 0]
        self.relevance_low[store] = first.quantile(0.2)
        self.target_low[store], self.target_high[store] = first.min(), first.max()

    @torch.no_grad()
    def fit_hops(self, store: int, data: StoreData, member: int) -> None:
        """Takes mean, standard deviation and weight of each hop's norms, after training.

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

    def warped(self, store: int, targets: Tensor) -> Tensor:
        """Targets float [..., T] as the network learns them: standardized, the first one warped."""
        first, *rest = self.standardized(store, targets).unbind(dim=-1)
        return torch.stack([warp(first, self.power[store]), *rest], dim=-1)

    def fit_closed_form(
        self,
        store: int,
        data: StoreData,
        member: int,
        settings: ResponseSettings = ResponseSettings(),  # noqa: B008 (frozen)
    ) -> Tensor:
        """Fits closed-form part and warping on the member's training records, after :meth:`fit_scales`.

        Args:
            store: position of the store.
            data: its records.
            member: position of this member, which decides its training records.
            settings: of the process, if that is the closed form.

        Returns:
            float32 [R], its warped prediction of each record; of a training record by the same model without
            it, so that the network learns to correct errors as they are on unseen records.
        """
        kind = self.network.settings.closed_form
        if kind == "none":
            return torch.zeros(len(data.configs))
        inside = data.training_rows(member)
        if kind == "responses" and data.responses is not None:
            configs, wanted = self._learned(store, data, member)
            counts = None if data.num_images is None else data.num_images[inside.numpy()]
            model = fit_response_model(data.responses, configs, wanted, settings, counts)
            for name, old in zip(_RESPONSES, self._responses(store), strict=True):
                setattr(self, f"{name}_{store}", torch.as_tensor(getattr(model, name)).to(old))
            power, left_out = model.power, model.left_out
        else:
            additive = self.fit_contributions(store, data, member)
            power, left_out = additive.power, additive.left_out
        self.power[store] = power
        offsets = self.closed_form(data.configs.to(self.power.device), store)
        offsets[inside.to(offsets.device)] = torch.from_numpy(left_out).to(offsets)
        return offsets

    def fit_contributions(self, store: int, data: StoreData, member: int) -> AdditiveModel:
        """Fits contributions by layer on the member's training records, after :meth:`fit_scales`.

        Args:
            store: position of the store.
            data: its records.
            member: position of this member, which decides its training records.
        """
        additive = fit_additive_model(data.header, *self._learned(store, data, member))
        self.contributions(store).copy_(torch.from_numpy(additive.table))
        return additive

    def _learned(self, store: int, data: StoreData, member: int) -> tuple[np.ndarray, np.ndarray]:
        """Configs int8 [n, L] and standardized targets float64 [n] of the member's training records."""
        inside = data.training_rows(member)
        wanted = self.standardized(store, data.targets[inside])[:, 0]
        return data.configs[inside].numpy(), wanted.double().cpu().numpy()

    def closed_form(self, configs: Tensor, store: int = 0) -> Tensor:
        """Warped prediction of the closed-form part for configs int64 [B, L], float32 [B]."""
        if self.responds(store):
            return predict(configs, *self._responses(store))
        layers = torch.arange(configs.shape[1], device=configs.device)
        return self.contributions(store)[layers, configs].sum(dim=1)

    def responds(self, store: int) -> bool:
        """Whether the closed form is a process on responses; then contributions only explain."""
        return self._responses(store)[0].numel() > 0

    def _responses(self, store: int) -> tuple[Tensor, ...]:
        return tuple(self.get_buffer(f"{name}_{store}") for name in _RESPONSES)

    def contributions(self, store: int = 0) -> Tensor:
        """Additive contributions on the warped scale, of slope 1 at the training mean, float32 [L, O]."""
        return self.get_buffer(f"additive_{store}")

    def forward(
        self, graph: GraphFeatures, configs: Tensor, store: int = 0, offsets: Tensor | None = None
    ) -> Prediction:
        """The prediction of the warped target: closed-form part plus the network's correction.

        Args:
            graph: features of the denoiser.
            configs: int64 [B, L].
            store: position of the denoiser.
            offsets: float [B], in place of the closed-form part.
        """
        if offsets is None:
            offsets = self.closed_form(configs.long(), store)
        corrected = self.network(graph, configs, store)
        first = offsets + self.graph_share[store] * corrected.outputs[:, 0]
        return Prediction(torch.cat([first[:, None], corrected.outputs[:, 1:]], dim=1), corrected.norms)

    def score(
        self, graph: GraphFeatures, configs: Tensor, store: int = 0, *, corrected: bool = True
    ) -> Tensor:
        """Predicted target of configs [B, L] in its own units, float [B]; not corrected: without network."""
        if corrected and self.graph_share[store] > 0:
            warped = self(graph, configs, store).outputs[:, 0]
        else:
            warped = self.closed_form(configs.long(), store)
        return self.unwarped(store, warped)

    def parts(
        self, graph: GraphFeatures, configs: Tensor, targets: Tensor, store: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of records, on the warped scale, each float [B]: the target, the closed-form part, the correction.

        Args:
            graph: features of the denoiser.
            configs: int64 [B, L].
            targets: float [B, T].
            store: position of the denoiser.
        """
        wanted = self.warped(store, targets)[:, 0]
        return wanted, self.closed_form(configs, store), self.network(graph, configs, store).outputs[:, 0]

    def unwarped(self, store: int, warped: Tensor) -> Tensor:
        """The first target in its own units from what the network predicts, float [...]."""
        outputs = unwarp(warped, self.power[store], self.target_low[store], self.target_high[store])
        return outputs * self.target_std[store, 0] + self.target_mean[store, 0]


def _make_room(member: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Before a state is loaded: only it knows whether there were responses, and how many records."""
    for name, buffer in member.named_buffers(recurse=False):
        saved = state.get(prefix + name)
        if name.startswith(_RESPONSES) and saved is not None:
            setattr(member, name, buffer.new_zeros(saved.shape))


class Ensemble(nn.ModuleList):
    """K members, trained on different folds; none where there were too few labels for networks."""

    def __iter__(self) -> Iterator[Member]:
        return super().__iter__()  # type: ignore[return-value]

    def score(
        self, graph: GraphFeatures, configs: Tensor, store: int = 0, *, corrected: bool = True
    ) -> Tensor:
        """What each member predicts for configs [B, L], float [K, B]."""
        return torch.stack([member.score(graph, configs, store, corrected=corrected) for member in self])

    @torch.no_grad()
    def calibrate(self, stores: Sequence[StoreData]) -> None:
        """Sets what a trained ranker needs: hop statistics, contributions, the share of its correction.

        Args:
            stores: the share of each is that of :func:`share_of` on the members' validation records, all of
                them together.
        """
        self.eval()
        for store, data in enumerate(stores if len(self) else ()):
            missing, corrections = [], []
            for index, member in enumerate(self):
                member.fit_hops(store, data, index)
                if member.responds(store):
                    member.fit_contributions(store, data, index)
                rows, device = data.validation_rows(index), data.graph.kind.device
                configs, targets = data.configs[rows].to(device), data.targets[rows].to(device)
                wanted, offset, correction = member.parts(data.graph, configs, targets, store)
                missing.append(wanted - offset)
                corrections.append(correction)
            share = share_of(torch.cat(missing), torch.cat(corrections))
            for member in self:
                member.graph_share[store] = share


def share_of(missing: Tensor, correction: Tensor) -> Tensor:
    """The share, 0 to 1, of corrections float [r] that leaves the least squared error of what is missing.

    With few labels a correction is mostly noise, and the closed-form part is better alone: a share that is
    not two standard errors above 0 is 0. Errors are of unequal size: White, "A heteroskedasticity-consistent
    covariance matrix estimator" (Econometrica 48, 1980).
    """
    size = correction.square().sum().clamp_min(1e-12)
    share = missing @ correction / size
    deviation = (correction * (missing - share * correction)).norm() / size
    return torch.where(share > _SIGNIFICANT * deviation, share, 0.0).clamp(0, 1)
