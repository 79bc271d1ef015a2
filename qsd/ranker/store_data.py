"""One store made ready for training: targets evaluated, records divided."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qsd.ranker.features import GraphFeatures
from qsd.ranker.joint import joint, pairs, weight_options
from qsd.ranker.target import Target
from qsd.ranker.universal.completing import filled_in
from qsd.store import SPLITS, Header, Responses, Store, known_options, seen_by
from qsd.support.errors import QsdError

_FEWEST_TESTED = 10  # test records of a store with too few labels for networks


@dataclasses.dataclass(frozen=True)
class StoreData:
    """One store made ready for training. R usable records.

    Attributes:
        path: of the store, as given.
        header: what its records share; its options are pairs (:mod:`qsd.ranker.joint`).
        graph: features of its denoiser.
        configs: int64 [R, L].
        targets: float32 [R, T], the target first, then the auxiliary ones.
        fold: int64 [R], the member that validates on a record; -1 for test records.
        spared: bool [K, R], further records that a member does not learn from but validates on.
        repeats: float32 [Z, R], the target of test records measured again under Z further noise seeds; NaN
            where it was not. Nothing learns from them: they tell what no ranker can know.
        labels: float64 [R, M], all labels of the store; NaN where one is missing.
        few: whether there are too few labels to train networks; the closed form of a probed store does.
        num_images: int32 [R], images behind each record; None where all have the same number.
        predicted_labels: labels that the ranker shall predict beside the target; None for all.
        last_seed: largest noise seed of all records, -1 without any.
        message: what was skipped, empty when nothing was.
    """

    path: str
    header: Header
    graph: GraphFeatures
    configs: Tensor
    targets: Tensor
    fold: Tensor
    spared: Tensor
    repeats: Tensor
    message: str
    labels: np.ndarray
    few: bool = False
    num_images: np.ndarray | None = None
    predicted_labels: tuple[str, ...] | None = None
    last_seed: int = -1

    def predicts(self, label: str) -> bool:
        """Whether the ranker shall predict that label."""
        return self.predicted_labels is None or label in self.predicted_labels

    @property
    def unseen(self) -> tuple[str, ...]:
        """Options that no record that may be learned from has: what is said of them is extrapolated."""
        options = weight_options(self.header)
        learned = self.configs[self.known_rows()].numpy() // len(self.header.activation_options)
        seen = set(np.unique(learned).tolist())
        return tuple(str(option) for place, option in enumerate(options) if place not in seen)

    @property
    def responses(self) -> Responses | None:
        """What each option does alone, if that is known of all layers."""
        responses = self.header.responses
        known = responses is not None and not responses.sketched and not len(responses.missing())
        return responses if known else None

    def training_rows(self, member: int) -> Tensor:
        """Positions of the records that a member may learn from, int64 [r]."""
        return ((self.fold >= 0) & (self.fold != member) & ~self.spared[member]).nonzero().squeeze(1)

    def validation_rows(self, member: int) -> Tensor:
        """Positions of the records that a member validates on, int64 [r]."""
        return ((self.fold == member) | self.spared[member]).nonzero().squeeze(1)

    def known_rows(self) -> Tensor:
        """Positions of training and validation records, int64 [r]."""
        return (self.fold >= 0).nonzero().squeeze(1)

    def test_rows(self) -> Tensor:
        """Positions of the test records, int64 [r]."""
        return (self.fold < 0).nonzero().squeeze(1)


def prepare(
    store: Store,
    target: Target,
    auxiliary: Sequence[Target] = (),
    folds: int = 1,
    max_labels: int | None = None,
    seed: int = 0,
    member_labels: Sequence[int] = (),
) -> StoreData:
    """Evaluates targets and divides the records.

    The store fixes which records are test. With ``folds`` 1 it also fixes which are validation; with more,
    training and validation records together are divided anew into ``folds`` parts, and each member of the
    ensemble holds out one part. All these records are of one noise seed, that of the store's first random
    config, but for configs that a search chose (of negative index): those are learned from under any seed.

    Of layers that were not probed while others were, the universal ranker says what it expects
    (:mod:`qsd.ranker.universal.completing`). A probed store may have any number of labels. With too few for
    networks (fewer than 2 records for training, validation or test) its closed form learns from all of them,
    but for test records if there are 10.

    Args:
        store: where the records are.
        target: what to rank by.
        auxiliary: further expressions that the network learns to predict beside it.
        folds: K, number of members.
        max_labels: use at most this many training and validation records (a random choice), None for all.
        seed: of the folds and of that choice.
        member_labels: each member learns from at most so many of its records (a random choice; several
            numbers are taken in turns) and validates on all others.

    Raises:
        QsdError: the target cannot be evaluated, or fewer than 2 records remain for training, validation or
            test and the store was not probed.
    """
    store, filled = filled_in(learnable(store))
    responses = store.header.responses
    probed = responses is not None and not len(responses.missing())
    if probed and not len(store.records):
        return _unlabeled(store, 1 + len(auxiliary), folds)
    evaluated = target.evaluate(store)
    is_first = (store.records.noise_seed == own_seed(store)) | (store.records.index < 0)
    images = store.records.num_images
    cheap = images < images.max()  # the ranking of test records is that of labels on equally many images
    rows = np.flatnonzero(evaluated.valid & is_first & ~(cheap & (store.records.split == 2)))
    rows = rows[np.argsort(store.records.index[rows])]  # workers finish in any order
    columns = [evaluated.values, *(other.evaluate(store).values for other in auxiliary)]
    split = store.records.split[rows]
    fold = np.where(split == 2, -1, np.where(split == 1, 0, 1))
    rng = np.random.default_rng([seed, folds])
    known = rng.permutation(np.flatnonzero(fold >= 0))
    if max_labels is not None:
        kept = np.concatenate([np.flatnonzero(fold < 0), known[:max_labels]])
        known = np.searchsorted(np.sort(kept), known[:max_labels])
        rows, fold = rows[np.sort(kept)], fold[np.sort(kept)]
    if folds > 1:
        fold[known] = np.arange(len(known)) % folds
    spared = np.zeros((folds, len(fold)), dtype=bool)
    if member_labels:
        for member in range(folds):
            inside = rng.permutation(np.flatnonzero((fold >= 0) & (fold != member)))
            spared[member, inside[member_labels[member % len(member_labels)] :]] = True
    shortage = _shortage(store, fold, folds)
    if shortage and not probed:
        raise QsdError(shortage)
    if shortage:
        fold = np.where((fold < 0) & ((fold < 0).sum() >= _FEWEST_TESTED), -1, 0)
    _check_spread(store, target, columns[0][rows][fold >= 0])
    header = joint(store.header)
    configs = pairs(store.records.config, store.records.activation, len(header.activation_options))
    return StoreData(
        path=str(store.path),
        header=header,
        graph=GraphFeatures.of(header),
        configs=torch.from_numpy(configs[rows]),
        targets=torch.from_numpy(np.stack([column[rows] for column in columns], axis=1)).float(),
        fold=torch.from_numpy(fold),
        spared=torch.from_numpy(spared),
        repeats=torch.from_numpy(_repeats(store, evaluated.values, rows)).float(),
        message="; ".join(filter(None, [filled, evaluated.message, _unprobed(store)])),
        labels=store.records.labels[rows],
        few=bool(shortage),
        num_images=images[rows] if np.ptp(images[rows]) else None,
        last_seed=int(store.records.noise_seed.max()),
    )


def learnable(store: Store) -> Store:
    """A store as rankers see it: without the options that nothing was measured of."""
    header, records = seen_by(
        store.header, store.records, known_options(store.header, store.records) or store.header.options
    )
    return store if header is store.header else Store(store.path, header, records)


def _unlabeled(store: Store, num_targets: int, folds: int) -> StoreData:
    """A probed store without records."""
    num_layers, num_labels = len(store.header.layers), len(store.header.labels)
    header = joint(store.header)
    return StoreData(
        path=str(store.path),
        header=header,
        graph=GraphFeatures.of(header),
        configs=torch.zeros(0, num_layers, dtype=torch.int64),
        targets=torch.zeros(0, num_targets),
        fold=torch.zeros(0, dtype=torch.int64),
        spared=torch.zeros(folds, 0, dtype=torch.bool),
        repeats=torch.zeros(0, 0),
        message=f"{store.path}: no labels, so the length of the probed change predicts",
        labels=np.zeros((0, num_labels)),
        few=True,
    )


def own_seed(store: Store) -> int:
    """The noise seed of the first random config; of the first record where a search chose all of them."""
    records = store.records
    seeds = records.noise_seed[records.index >= 0]
    return int(seeds[0] if len(seeds) else records.noise_seed[0])


def _unprobed(store: Store) -> str:
    """What to say of a probed store whose responses do not serve: records have options that lack them."""
    header = store.header
    if header.responses is None or header.responses.sketched or not len(header.responses.missing()):
        return ""
    names = [
        name for name, known in zip(header.columns, header.responses.complete(), strict=True) if not known
    ]
    return (
        f"{store.path}: {', '.join(names)} labeled but not probed, so the ranker goes without probes; "
        "run `qsd probe`"
    )


def _repeats(store: Store, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of the test records among ``rows`` under every other noise seed, float64 [Z, len(rows)]."""
    records = store.records
    others = np.unique(records.noise_seed[records.noise_seed != own_seed(store)])
    repeats = np.full((len(others), len(rows)), np.nan)
    for position, seed in enumerate(others):
        measured = (records.noise_seed == seed) & (records.split == SPLITS.index("test"))
        value_of = dict(zip(records.index[measured].tolist(), values[measured].tolist(), strict=True))
        repeats[position] = [value_of.get(index, np.nan) for index in records.index[rows].tolist()]
    return repeats


def _shortage(store: Store, fold: np.ndarray, folds: int) -> str:
    """What is missing to train networks, empty if nothing is."""
    counts = {"test": int((fold < 0).sum())}
    for member in range(folds):
        counts["validation"] = min(counts.get("validation", len(fold)), int((fold == member).sum()))
        training = int(((fold >= 0) & (fold != member)).sum())
        counts["training"] = min(counts.get("training", len(fold)), training)
    for part, count in counts.items():
        if count < 2:
            return (
                f"{store.path}: {count} usable {part} records of {len(fold)}, at least 2 are needed; "
                f"label more with `qsd label --store {store.path}`"
            )
    return ""


def _check_spread(store: Store, target: Target, known: np.ndarray) -> None:
    if len(known) and np.ptp(known) <= 1e-12 * np.abs(known).max():
        raise QsdError(
            f"{store.path}: {target.text!r} is the same for all {len(known)} training and validation "
            "records, so there is nothing to learn; choose another target or label more"
        )
