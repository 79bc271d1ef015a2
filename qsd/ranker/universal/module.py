"""The LightningModule: as many networks as denoisers, each of which learns from all but one of them."""

import dataclasses
from typing import Any

import lightning
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from qsd.ranker.metrics import spearman
from qsd.ranker.universal.data import ProbedStore, UniversalDataModule, by_space
from qsd.ranker.universal.graphs import LayerGraph
from qsd.ranker.universal.network import ResponseNetwork, UniversalSettings, log_length

_PAIRS, _CONFIGS = 512, 48  # per denoiser and step
_HUBER = 2.0  # nats beyond which an energy counts linearly: options that do nothing have any
_OFFSET = 0.02


class UniversalModule(lightning.LightningModule):
    """Loss = error of log energies + error of cosines + disorder of random configs + disorder of labels.

    The disorder of configs is 1 - the correlation of predicted and probed log lengths of their summed change;
    that of labels is 1 - the correlation of predicted log lengths and the target.

    Args:
        network: architecture of each member.
        alignment_weight: of the mean squared error of cosines.
        config_weight: of the disorder of random configs.
        label_weight: of that of labels.
        learning_rate: peak of AdamW's learning rate, in one cycle.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        network: UniversalSettings = UniversalSettings(),  # noqa: B008 (frozen)
        alignment_weight: float = 3.0,
        config_weight: float = 1.0,
        label_weight: float = 0.5,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        self.settings = UniversalSettings(**network) if isinstance(network, dict) else network
        self.save_hyperparameters(ignore=["network"])
        self.save_hyperparameters({"network": dataclasses.asdict(self.settings)})
        self.members = nn.ModuleList()
        self._joined: list[LayerGraph] = []

    @property
    def data(self) -> UniversalDataModule:
        """The data module that the trainer runs on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Builds one member per denoiser."""
        stores = self.data.stores
        self._joined = [LayerGraph.joined([s.graph for s in self._learned(k)]) for k in range(len(stores))]
        if not len(self.members):
            for graph in self._joined:
                member = ResponseNetwork(self.settings)
                member.fit_scales(graph)
                self.members.append(member)

    def _learned(self, member: int) -> list[ProbedStore]:
        """The stores that a member learns from."""
        return [store for place, store in enumerate(self.data.stores) if place != member]

    def training_step(self, batch: int, batch_index: int) -> Tensor:
        random = torch.Generator().manual_seed(
            (self.data.seed * 1_000 + self.current_epoch) * 100_000 + int(batch)
        )
        losses = [
            self._loss(member, graph, self._learned(place), random)
            for place, (member, graph) in enumerate(zip(self.members, self._joined, strict=True))
        ]
        loss = torch.stack(losses).sum()  # members share nothing, so each has its own gradient
        self.log("train_loss", loss / len(losses), prog_bar=True, on_epoch=True, on_step=False, batch_size=1)
        return loss

    def validation_step(self, batch: int, batch_index: int) -> None:
        """How each member ranks the labels of the denoiser that it has not seen."""
        found = []
        for member, store in zip(self.members, self.data.stores, strict=True):
            if store.is_labeled:
                rows = store.data.known_rows()
                scores = score(member, store, store.data.configs[rows])
                found.append(spearman(store.data.targets[rows, 0].numpy(), scores.numpy()))
                self.log(f"val_spearman_{store.name}", found[-1], batch_size=1)
        value = float(torch.tensor(found).mean()) if found else 0.0
        self.log("val_spearman", value, prog_bar=True, batch_size=1)

    def test_step(self, batch: int, batch_index: int) -> None:
        """How the members together rank the test labels of the store that is left out."""
        store = self.data.left_out
        if store is not None and len(store.data.test_rows()) > 2:
            rows = store.data.test_rows()
            scores = torch.stack([score(m, store, store.data.configs[rows]) for m in self.members]).mean(0)
            value = spearman(store.data.targets[rows, 0].numpy(), scores.numpy())
            self.log("test_spearman", value, batch_size=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        steps = max(2, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.hparams["learning_rate"], total_steps=steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(
        self, member: nn.Module, graph: LayerGraph, stores: list[ProbedStore], random: torch.Generator
    ) -> Tensor:
        assert isinstance(member, ResponseNetwork)
        sizes = [len(store.log_energy) for store in stores]
        energies, embeddings = (part.split(sizes) for part in member(graph))
        losses = []
        for store, energy, embedding in zip(stores, energies, embeddings, strict=True):
            losses.append(_energy_loss(energy, store.log_energy))
            losses.append(self.hparams["alignment_weight"] * _alignment_loss(embedding, store, random))
            shaped = energy.unflatten(0, store.shape), embedding.unflatten(0, store.shape)
            if self.hparams["config_weight"]:
                chosen = torch.randint(len(store.configs), (_CONFIGS,), generator=random)
                lengths = log_length(*shaped, store.configs[chosen])
                disorder = _disorder(lengths, store.log_length[chosen])
                losses.append(self.hparams["config_weight"] * disorder.mean())
            if self.hparams["label_weight"] and store.is_labeled:
                known = store.data.known_rows()
                chosen = known[torch.randint(len(known), (_CONFIGS,), generator=random)]
                lengths = log_length(*shaped, store.data.configs[chosen].long())
                guess = lengths @ member.space_weights
                truth = -store.data.targets[chosen, :1]
                losses.append(self.hparams["label_weight"] * _disorder(guess[:, None], truth).mean())
        return torch.stack(losses).sum() / len(stores)


def score(member: nn.Module, store: ProbedStore, configs: Tensor) -> Tensor:
    """What a member says of configs int64 [n, L] of a denoiser; larger is better. float [n]."""
    assert isinstance(member, ResponseNetwork)
    training = member.training
    member.eval()
    with torch.no_grad():
        energy, embedding = member(store.graph)
        shaped = energy.unflatten(0, store.shape), embedding.unflatten(0, store.shape)
        found = -(log_length(*shaped, configs.long()) @ member.space_weights)
    member.train(training)
    return found


def _energy_loss(guess: Tensor, truth: Tensor) -> Tensor:
    """Errors around their mean, and a little for the mean, which no other denoiser tells."""
    known = truth.isfinite()
    error = torch.where(known, guess - truth.nan_to_num(), 0.0)
    count = known.sum(dim=0).clamp_min(1)
    mean = error.sum(dim=0) / count
    centred = torch.where(known, error - mean, 0.0)
    huber = F.huber_loss(centred, torch.zeros_like(centred), delta=_HUBER, reduction="sum")
    return huber / count.sum() + _OFFSET * mean.square().mean()


def _alignment_loss(embedding: Tensor, store: ProbedStore, random: torch.Generator) -> Tensor:
    """Squared errors of the cosines of random pairs of options of different layers."""
    rows = store.graph.available.nonzero().squeeze(1)
    first, second = (rows[torch.randint(len(rows), (_PAIRS,), generator=random)] for _ in range(2))
    apart = store.graph.layer[first] != store.graph.layer[second]
    first, second = first[apart], second[apart]
    truth = by_space(store.units, first, second)
    guess = (embedding[first] * embedding[second]).sum(dim=-1)
    known = truth.isfinite()
    return torch.where(known, guess - truth.nan_to_num(), 0.0).square().sum() / known.sum().clamp_min(1)


def _disorder(guess: Tensor, truth: Tensor) -> Tensor:
    """1 - the correlation of each column whose truth is known."""
    known = truth.isfinite().all(dim=0)
    guess, truth = guess[:, known], truth[:, known]
    guess, truth = guess - guess.mean(dim=0), truth - truth.mean(dim=0)
    scale = guess.norm(dim=0) * truth.norm(dim=0)
    return 1 - (guess * truth).sum(dim=0) / scale.clamp_min(1e-9)
