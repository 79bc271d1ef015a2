"""Batches of records for the ranker. A record is a row; batches never mix denoisers."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from qsd.ranker.store_data import StoreData, prepare
from qsd.ranker.target import Target
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.paths import find

DEFAULT_FOLDS = 4


class Batch(NamedTuple):
    """Records of one store, for each member of the ensemble. K members.

    Attributes:
        store: position of the store in the data module.
        configs: int64 [K, b, L]; in validation only one member's, [1, b, L].
        targets: float32 [K, b, T], in the units of the expressions; NaN where an auxiliary one is missing.
        rows: int64 [K, b], positions of the records in the store's data.
        member: the member that a validation batch belongs to, -1 for all.
    """

    store: int
    configs: Tensor
    targets: Tensor
    rows: Tensor
    member: int = -1


BatchKey = tuple[int, Tensor, int]
"""(store, rows int64 [K, b], member) of a batch."""


class _Rows(Dataset[Batch]):
    """Batches by (store, rows int64 [K, b], member): gathers, nothing else."""

    def __init__(self, stores: Sequence[StoreData]) -> None:
        self.stores = stores

    def __getitem__(self, key: BatchKey) -> Batch:
        store, rows, member = key
        data = self.stores[store]
        return Batch(store, data.configs[rows], data.targets[rows], rows, member)


class _EpochSampler(Sampler[BatchKey]):
    """One epoch: every member sees each of its training records about once, in its own order.

    Of members with different numbers of records, each sees as many as the one with the fewest has.
    """

    def __init__(self, stores: Sequence[StoreData], folds: int, batch_size: int, seed: int) -> None:
        self.stores = stores
        self.folds = folds
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, so that a resumed run shuffles as an unbroken one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self._plan(data)[0] for data in self.stores)

    def __iter__(self) -> Iterator[BatchKey]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        keys: list[BatchKey] = []
        for store, data in enumerate(self.stores):
            count, size = self._plan(data)
            orders = []
            for member in range(self.folds):
                rows = data.training_rows(member)
                orders.append(rows[torch.randperm(len(rows), generator=generator)][: count * size])
            keys += [(store, rows, -1) for rows in torch.stack(orders).split(size, dim=1)]
        yield from (keys[position] for position in torch.randperm(len(keys), generator=generator).tolist())

    def _plan(self, data: StoreData) -> tuple[int, int]:
        """(batches, records per batch): equal batches, so that edges are repeated for one size only."""
        shortest = min(len(data.training_rows(member)) for member in range(self.folds))
        count = max(1, round(shortest / self.batch_size))
        return count, shortest // count


class StoreDataModule(lightning.LightningDataModule):
    """Training, validation and test batches over one store or several.

    Args:
        stores: paths, or names of shipped stores such as ``datasets/digits-pixart-alpha.h5``.
        target: expression over label names, ``avg_bits`` and ``bytes``; larger is better.
        auxiliary: further expressions that the network learns to predict beside it.
        batch_size: records per step and member, about: epochs are cut into equal batches.
        folds: K, members of the ensemble; 1 trains a single one on the store's own training split.
        max_labels: use at most this many training and validation records per store, None for all.
        seed: of folds, shuffling and that choice.
        member_labels: let each member learn from at most so many records, and validate on all others: tells
            on many records how a ranker does with few. Members take several numbers in turns.
        labels: labels that the ranker also predicts, each with a posterior of its own; None for all, [] for
            none.
    """

    def __init__(
        self,
        stores: list[str],
        target: str = "-fid",
        auxiliary: list[str] | None = None,
        batch_size: int = 32,
        folds: int = DEFAULT_FOLDS,
        max_labels: int | None = None,
        seed: int = 0,
        member_labels: list[int] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__()
        if folds < 1 or batch_size < 2:
            raise QsdError(f"data: folds {folds}, batch_size {batch_size}; use at least 1 and at least 2")
        if min(member_labels or [2]) < 2:
            raise QsdError(f"data: member_labels {member_labels}; a member needs at least 2 labels")
        self.paths = [stores] if isinstance(stores, str) else list(stores)
        self.targets = [Target(text) for text in (target, *(auxiliary or []))]
        self.batch_size = batch_size
        self.folds = folds
        self.max_labels = max_labels
        self.seed = seed
        self.member_labels = member_labels or []
        self.labels = None if labels is None else tuple(labels)
        self.stores: list[StoreData] = []

    def setup(self, stage: str | None = None) -> None:
        """Reads the stores, once."""
        if not self.stores:
            target, *auxiliary = self.targets
            records = (self.folds, self.max_labels, self.seed, self.member_labels)
            for path in self.paths:
                data = prepare(Store.open(find(path)), target, auxiliary, *records)
                self.stores.append(dataclasses.replace(data, predicted_labels=self.labels))

    @property
    def few(self) -> bool:
        """Whether a store has too few labels to train networks."""
        return any(data.few for data in self.stores)

    @property
    def messages(self) -> list[str]:
        """What was skipped in which store."""
        return [data.message for data in self.stores if data.message]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of all members, [K, b, ...]."""
        return self._loader(_EpochSampler(self.stores, self.folds, self.batch_size, self.seed))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Each member's own fold of each store, one batch each."""
        return self._loader(
            [
                (store, data.validation_rows(member).unsqueeze(0), member)
                for store, data in enumerate(self.stores)
                for member in range(self.folds)
            ]
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test records of each store, one batch each."""
        return self._loader([(store, data.test_rows()[None], -1) for store, data in enumerate(self.stores)])

    def predict_dataloader(self) -> DataLoader[Batch]:
        """All usable records of each store, one batch each."""
        return self._loader(
            [(store, torch.arange(len(data.fold))[None], -1) for store, data in enumerate(self.stores)]
        )

    def _loader(self, keys: Sampler[BatchKey] | list[BatchKey]) -> DataLoader[Batch]:
        return DataLoader(_Rows(self.stores), batch_size=None, sampler=keys)
