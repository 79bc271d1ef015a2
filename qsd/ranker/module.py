"""The LightningModule: trains the members of an ensemble side by side, each on its own folds."""

import dataclasses
import itertools
import math
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from qsd.denoisers.identity import describe, differing_part
from qsd.ranker.data import Batch, StoreDataModule
from qsd.ranker.ensemble import Ensemble, Member, share_of
from qsd.ranker.losses import hop_loss, relevance
from qsd.ranker.metrics import METRICS, mean_correlation, spearman
from qsd.ranker.network import NetworkSettings
from qsd.ranker.responses import ResponseSettings
from qsd.ranker.store_data import StoreData
from qsd.support.errors import QsdError

_TRAINED_ON = "qsd_denoisers"
_PRECISIONS = (None, "32", "32-true")


def check_precision(precision: str | int | None) -> None:
    """Refuses a precision of the trainer in which the graph layers cannot add up.

    Raises:
        QsdError: it is not 32 bits.
    """
    if (None if precision is None else str(precision)) not in _PRECISIONS:
        raise QsdError(
            f"trainer.precision is {precision}: the graph layers add up in 32 bits; "
            "leave it out or take 32-true"
        )


class RankerModule(lightning.LightningModule):
    """Loss = MSE of the predicted targets + a ranking loss on the L1 norms of the hop embeddings.

    Args:
        network: architecture of each member.
        responses: of the closed form of that name: what it compares, and what it expects.
        ranking_loss: on hop norms: spearman, lambdarank, hybrid (both), or none.
        ranking_weight: its weight; the MSE of the standardized target has weight 1.
        auxiliary_weight: weight of the mean MSE of the auxiliary targets.
        learning_rate: peak of AdamW's learning rate; it warms up over 5 % of the steps and falls to 0 as a
            cosine.
        weight_decay: of AdamW, on weight matrices.
        table_penalty: L2 penalty on the learned tables per layer and option, which have one entry for every
            few labels and need their own prior.
    """

    def __init__(
        self,
        network: NetworkSettings = NetworkSettings(),  # noqa: B008 (frozen)
        responses: ResponseSettings = ResponseSettings(),  # noqa: B008 (frozen)
        ranking_loss: Literal["spearman", "lambdarank", "hybrid", "none"] = "hybrid",
        ranking_weight: float = 0.1,
        auxiliary_weight: float = 0.3,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        table_penalty: float = 1e-3,
    ) -> None:
        super().__init__()
        self.settings = NetworkSettings(**network) if isinstance(network, dict) else network
        self.responses = ResponseSettings(**responses) if isinstance(responses, dict) else responses
        self.save_hyperparameters(ignore=["network", "responses"])
        self.save_hyperparameters(
            {"network": dataclasses.asdict(self.settings), "responses": dataclasses.asdict(self.responses)}
        )
        self.members = Ensemble()
        self.positions: list[int] = []  # of the stores among those that loaded members know
        self._offsets: list[Tensor] = []  # by store, float [K, R]
        # what validation steps found, by store and by turn among the numbers of labels of members
        self._validated: dict[tuple[int, int], list[tuple[Member, Tensor]]] = {}

    @property
    def data(self) -> StoreDataModule:
        """The data module that the trainer runs on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Builds the members for the graphs of the data module."""
        if len(self.members):
            return
        num_targets = len(self.data.targets)
        graphs = [data.graph for data in self.data.stores]
        self.members = Ensemble(Member(self.settings, graphs, num_targets) for _ in range(self.data.folds))

    def on_fit_start(self) -> None:
        """Offsets are no part of a checkpoint, so a resumed run makes them again."""
        self._fit_scales()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        data = self._data(batch.store)
        losses = [
            self._loss(member, data, batch.store, configs, targets, offsets[rows])
            for member, configs, targets, rows, offsets in zip(
                self.members,
                batch.configs,
                batch.targets,
                batch.rows,
                self._offsets[batch.store],
                strict=True,
            )
        ]
        loss = torch.stack(losses).sum()  # a sum: members share nothing, so each has its own gradient
        self.log("train_loss", loss / len(losses), prog_bar=True, on_epoch=True, on_step=False, batch_size=1)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validated = {}

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        member, targets = list(self.members)[batch.member], batch.targets[0]
        table = self._table(batch.store)
        parts = member.parts(self._data(batch.store).graph, batch.configs[0], targets, table)
        found = torch.stack([targets[:, 0], *parts])
        turn = batch.member % max(1, len(self.data.member_labels))
        self._validated.setdefault((batch.store, turn), []).append((member, found))

    def on_validation_epoch_end(self) -> None:
        """How the ensemble would do if training ended here.

        Every training and validation record is predicted by the member that did not learn from it, with the
        share of the network's correction that :meth:`Ensemble.calibrate` would set. Stores, and members that
        learn from different numbers of labels, are ranked each by themselves; the latter are logged, too.
        """
        errors = []
        ranks: dict[int, list[float]] = {}  # by turn
        for (store, turn), parts in self._validated.items():
            targets, wanted, offsets, corrections = torch.cat([found for _, found in parts], dim=1)
            share = share_of(wanted - offsets, corrections)
            table = self._table(store)
            predicted = [member.unwarped(table, found[2] + share * found[3]) for member, found in parts]
            rank = spearman(targets.cpu().numpy(), torch.cat(predicted).cpu().numpy())
            ranks.setdefault(turn, []).append(rank)
            errors.append(F.mse_loss(offsets + share * corrections, wanted))
        self.log("val_spearman", mean_correlation([*itertools.chain(*ranks.values())]), prog_bar=True)
        for labels, found in zip(self.data.member_labels, ranks.values(), strict=False):
            self.log(f"val_spearman_{labels}", mean_correlation(found))
        self.log("val_mse", torch.stack(errors).mean())

    def test_step(self, batch: Batch, batch_index: int) -> None:
        predicted = self.predict_step(batch, batch_index)
        target = batch.targets[0, :, 0]
        for name, metric in METRICS.items():
            value = metric(target.double().cpu().numpy(), predicted.double().cpu().numpy())
            self.log(f"test_{name}", value, batch_size=1)

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean over members of a store's records, float [R]."""
        graph, table = self._data(batch.store).graph, self._table(batch.store)
        return self.members.score(graph, batch.configs[0], table).mean(dim=0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says what it was trained on."""
        checkpoint[_TRAINED_ON] = [data.header.denoiser for data in self.data.stores]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the stores of other denoisers.

        Raises:
            QsdError: the checkpoint was trained on others, or in another order.
        """
        trained = checkpoint.get(_TRAINED_ON)
        if trained is None or self._trainer is None:
            return
        stores = self.data.stores
        known = ", ".join(map(describe, trained))
        if len(trained) != len(stores):
            raise QsdError(
                f"the checkpoint was trained on {len(trained)} stores ({known}), not {len(stores)}; "
                "name them in its order, or give the ranker folder"
            )
        for one, data in zip(trained, stores, strict=True):
            if part := differing_part(one, data.header.denoiser):
                raise QsdError(
                    f"{data.path}: of {describe(data.header.denoiser)}, but the checkpoint was trained on "
                    f"{known} (another {part}); name its stores in its order, or give the ranker folder"
                )

    def _table(self, store: int) -> int:
        """Which of the denoisers that the members know a store is of."""
        return self.positions[store] if self.positions else store

    def configure_optimizers(self) -> Any:
        tables = {name for name, _ in self.named_parameters() if "tables" in name}
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in self.named_parameters() if n in tables], "weight_decay": 0.0},
            {"params": [p for n, p in self.named_parameters() if n not in tables]},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(
        self, member: Member, data: StoreData, store: int, configs: Tensor, targets: Tensor, offsets: Tensor
    ) -> Tensor:
        prediction = member(data.graph, configs, store, offsets)
        wanted = member.warped(store, targets)
        squared = torch.where(wanted.isfinite(), (prediction.outputs - wanted).nan_to_num() ** 2, 0.0).mean(
            dim=0
        )
        loss = squared[0]
        if len(squared) > 1:
            loss = loss + self.hparams["auxiliary_weight"] * squared[1:].mean()
        if self.hparams["ranking_loss"] != "none":
            standardized = member.standardized(store, targets)[:, 0]
            gains = relevance(standardized, member.relevance_low[store], member.target_high[store])
            ranking = hop_loss(prediction.norms, wanted[:, 0], gains, self.hparams["ranking_loss"])
            loss = loss + self.hparams["ranking_weight"] * ranking
        return loss + self.hparams["table_penalty"] * member.network.table_penalty(store)

    def _fit_scales(self) -> None:
        """Scales and closed-form parts from each member's own training records."""
        self._offsets = []
        for store, data in enumerate(self.data.stores):
            if self.settings.closed_form == "responses" and data.responses is None:
                rank_zero_info(
                    f"{data.path}: not probed (`qsd probe`), so errors are taken to add up, layer by layer"
                )
            offsets = []
            for index, member in enumerate(self.members):
                member.fit_scales(store, data.targets[data.training_rows(index)])
                offsets.append(member.fit_closed_form(store, data, index, self.responses))
            self._offsets.append(torch.stack(offsets).to(self.device))

    def _data(self, store: int) -> StoreData:
        """A store with its graph features on this module's device."""
        data = self.data.stores[store]
        if data.graph.kind.device != self.device:
            data = dataclasses.replace(data, graph=data.graph.to(self.device))
            self.data.stores[store] = data
        return data


def _warmup_cosine(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
