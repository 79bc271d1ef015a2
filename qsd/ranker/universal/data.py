"""Probed stores as examples of denoisers, one of which may be left out."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qsd.configs.sampling import sample_configs
from qsd.denoisers.identity import same_denoiser
from qsd.ranker.store_data import StoreData, prepare
from qsd.ranker.target import Target
from qsd.ranker.universal.graphs import LayerGraph
from qsd.ranker.universal.network import SPACES
from qsd.store import Responses, Store
from qsd.support.errors import QsdError
from qsd.support.paths import find

_SMALLEST_ENERGY = 1e-12
_FEWEST_STORES = 3
_FEWEST_LABELS = 20


@dataclasses.dataclass(eq=False)
class ProbedStore:
    """One denoiser whose answers are known. L layers, O options, R = L O, S spaces, n random configs.

    Attributes:
        name: of the store's file, without its ending.
        data: header, records, targets.
        graph: what the network sees.
        log_energy: float32 [R, S], natural logarithm of the squared length of each change; NaN where the
            layer lacks the option or the store was not probed in the space.
        units: by space, changes of length 1, float32 [R, d]; None where it was not probed.
        configs: int64 [n, L].
        log_length: float32 [n, S], logarithm of the squared length of their summed change, NaN likewise.
    """

    name: str
    data: StoreData
    graph: LayerGraph
    log_energy: Tensor
    units: list[Tensor | None]
    configs: Tensor
    log_length: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(L, O)."""
        rows, options = self.data.header.num_bytes.shape
        return rows, options

    @property
    def is_labeled(self) -> bool:
        """Whether there are labels enough to tell a ranking by."""
        return len(self.data.known_rows()) >= _FEWEST_LABELS

    @classmethod
    def of(cls, data: StoreData, responses: Responses, num_configs: int, seed: int) -> "ProbedStore":
        """From a store's data and its responses, which know every layer."""
        header = data.header
        layers, options = header.num_bytes.shape
        configs = sample_configs(header.options, layers, num_configs, seed, available=header.available)
        chosen = np.arange(layers), configs.astype(np.int64)
        energies, lengths, units = [], [], list[Tensor | None]()
        for name in SPACES:
            values = responses.spaces.get(name)
            if values is None:
                energies.append(np.full(layers * options, np.nan))
                lengths.append(np.full(num_configs, np.nan))
                units.append(None)
                continue
            alone = values.astype(np.float64)
            square = np.square(alone).sum(axis=2)
            energy = np.log(square.clip(_SMALLEST_ENERGY))
            energies.append(np.where(header.available, energy, np.nan).ravel())
            summed = np.stack([alone[chosen[0], config].sum(axis=0) for config in chosen[1]])
            lengths.append(np.log(np.square(summed).sum(axis=1).clip(_SMALLEST_ENERGY)))
            unit = alone / np.sqrt(square.clip(_SMALLEST_ENERGY))[..., None]
            units.append(torch.from_numpy(unit.reshape(layers * options, -1)).float())
        return cls(
            name=Path(data.path).stem,
            data=data,
            graph=LayerGraph.of(header),
            log_energy=torch.from_numpy(np.stack(energies, axis=1)).float(),
            units=units,
            configs=torch.from_numpy(chosen[1]),
            log_length=torch.from_numpy(np.stack(lengths, axis=1)).float(),
        )


class UniversalDataModule(lightning.LightningDataModule):
    """Probed stores of several denoisers; a batch is a seed of random configs and pairs of all of them.

    Args:
        stores: probed stores, at least three of different denoisers; labels are learned from where there are
            some.
        leave_out: a store, by file name with or without folder and ending, that nothing is learned from and
            that the ranker is tested on.
        target: expression over labels to rank by, larger is better.
        steps: optimizer steps per epoch.
        num_configs: random configs per denoiser whose changes are added up.
        seed: of these, and of batches.
    """

    def __init__(
        self,
        stores: list[str],
        leave_out: str | None = None,
        target: str = "-log(fid)",
        steps: int = 50,
        num_configs: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if steps < 1 or num_configs < 16:
            raise QsdError(f"data: steps {steps}, num_configs {num_configs}; use at least 1 and at least 16")
        self.paths = list(stores)
        self.leave_out = leave_out
        self.target = Target(target)
        self.steps = steps
        self.num_configs = num_configs
        self.seed = seed
        self.stores: list[ProbedStore] = []
        self.left_out: ProbedStore | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads the stores, once."""
        if self.stores:
            return
        without = None if self.leave_out is None else _stem(self.leave_out)
        names = [_stem(path) for path in self.paths]
        for name in names:
            if names.count(name) > 1:
                raise QsdError(f"data.stores: {names.count(name)} are named {name}; rename or leave out one")
        if without is not None and without not in names:
            raise QsdError(f"data.leave_out {self.leave_out}: not among the stores {', '.join(names)}")
        if len(names) - (without is not None) < _FEWEST_STORES:
            raise QsdError(
                f"data.stores: {len(names)} given; a ranker for denoisers it has never seen learns from at "
                f"least {_FEWEST_STORES} others"
            )
        for path, name in zip(self.paths, names, strict=True):
            store = read_probed(path, self.target, self.num_configs, self.seed)
            _check_apart(store, [*self.stores, *([self.left_out] if self.left_out else [])])
            if name == without:
                self.left_out = store
            else:
                self.stores.append(store)

    def train_dataloader(self) -> DataLoader[int]:
        """Seeds, as many as steps."""
        return DataLoader(range(self.steps), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[int]:
        """One batch."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    test_dataloader = val_dataloader


def read_probed(path: str | Path, target: Target, num_configs: int = 256, seed: int = 0) -> ProbedStore:
    """Reads one probed store.

    Raises:
        QsdError: it was not probed in all layers, or the target cannot be evaluated.
    """
    store = Store.open(find(path))
    header = store.header
    known = header.responses
    if known is None or known.sketched or len(known.missing()):
        raise QsdError(
            f"{store.path}: not all of its layers are probed, so there is too little to learn from; measure "
            f"them with `qsd probe --store {store.path}`"
        )
    if len(header.activation_options) > 1:
        raise QsdError(f"{store.path}: has options for activations; a universal ranker learns from 16 bits")
    return ProbedStore.of(prepare(store, target), known, num_configs, seed)


def by_space(units: Sequence[Tensor | None], first: Tensor, second: Tensor) -> Tensor:
    """Cosines of changes at rows ``first`` and ``second``, float [p, S], NaN in unknown spaces."""
    columns = [
        torch.full((len(first),), torch.nan) if unit is None else (unit[first] * unit[second]).sum(dim=1)
        for unit in units
    ]
    return torch.stack(columns, dim=1)


def _check_apart(store: ProbedStore, others: Sequence[ProbedStore]) -> None:
    """Refuses two stores of one denoiser: what is said of one would have been learned from the other."""
    for other in others:
        if same_denoiser(store.data.header.denoiser, other.data.header.denoiser):
            raise QsdError(
                f"{store.data.path}: of the same denoiser as {other.data.path}, so no network would be tried "
                "on what it has not seen; leave one out of data.stores"
            )


def _stem(path: str | Path) -> str:
    return Path(path).name.removesuffix(".h5")
