"""What an explanation explains: a score of configs, by a ranker, by probed changes or by labels alone."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch.nn.functional as F  # noqa: N812

from qsd.bank import FULL_PRECISION
from qsd.ranker.baselines import Ridge, one_hot
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.joint import joint
from qsd.ranker.posteriors import FEWEST, TARGET
from qsd.ranker.predictors import CorrectedPredictor, LabelPredictor, LengthPredictor, ProcessPredictor
from qsd.ranker.process import ResponseProcess
from qsd.ranker.target import Target
from qsd.store import Store
from qsd.support.errors import QsdError

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of configs, larger is better. L layers, O options.

    Attributes:
        name: of what is scored.
        source: what it is computed from.
        function: configs int8 [n, L] -> float64 [n].
        restorable: whether configs may leave layers at :data:`qsd.bank.FULL_PRECISION`.
        change: float64 [L, O, d], where the score is minus the squared length of the summed change.
    """

    name: str
    source: str
    function: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    restorable: bool
    change: np.ndarray | None = dataclasses.field(default=None, repr=False)

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        return np.asarray(self.function(configs), dtype=np.float64)


def score_of(store: Store, ranker: Ranker | None = None, label: str | None = None) -> Score:
    """The best score that there is for a store.

    A ranker's prediction; without one, minus the squared length of the summed probed change; without probed
    changes, ridge regression on the labels.

    Args:
        store: probed, labeled, or the one that the ranker was trained on.
        ranker: of the store's denoiser and options.
        label: a label instead of the ranker's target; without a ranker, also an expression over labels. A
            bare label counts against a config where smaller is better.

    Raises:
        QsdError: the store is neither probed nor labeled, the ranker is another's, or the label is unknown.
    """
    if ranker is not None:
        ranker.check(joint(store.header), store.path)
        return _by_ranker(store, ranker, label)
    change = probed_change(store)
    if change is not None and label is None:
        return Score(
            "minus mean square change of the images",
            "summed probed changes",
            lambda configs: -np.square(summed(change, configs)).sum(axis=1),
            restorable=True,
            change=change,
        )
    if not len(store.records):
        raise QsdError(
            f"{store.path}: holds no labels, so {label!r} cannot be explained; label with `qsd label`"
            if label
            else f"{store.path}: neither probed nor labeled, so there is nothing to explain; run `qsd probe`"
        )
    return _by_labels(store, label)


def probed_change(store: Store) -> np.ndarray | None:
    """What each option does alone to the images, float64 [L, O, d], None if the store was not fully probed.

    In features of the images, or in latents where there are no features; squared lengths are mean squares.
    """
    responses = store.header.responses
    if responses is None or len(responses.missing()):
        return None
    space = responses.spaces.get("features", responses.spaces.get("latents"))
    return None if space is None else space[:, : len(store.header.options)].astype(np.float64)


def summed(change: np.ndarray, configs: np.ndarray) -> np.ndarray:
    """Changes float64 [n, d] of configs int8 [n, L]; layers at full precision add nothing."""
    total = np.zeros((len(configs), change.shape[2]))
    for start in range(0, len(configs), _BATCH):
        part = configs[start : start + _BATCH]
        for layer in range(part.shape[1]):
            chosen = part[:, layer].astype(np.int64)
            total[start : start + _BATCH] += np.where(chosen[:, None] < 0, 0.0, change[layer, chosen])
    return total


def _by_ranker(store: Store, ranker: Ranker, label: str | None) -> Score:
    name = label or TARGET
    ranker.posterior(np.zeros((0, len(store.header.layers)), np.int8), label=label)  # refuses unknown labels
    predictor = ranker.posteriors[name]
    closed = predictor.base if isinstance(predictor, CorrectedPredictor) else predictor
    better = {one.name: one.larger_is_better for one in store.header.labels}.get(name, label is None)
    sign, activations = (1.0 if better else -1.0), len(store.header.activation_options)
    full = _with_full_precision(closed)
    model, width = full or (closed, 0)

    def function(configs: np.ndarray) -> np.ndarray:
        wide = configs.astype(np.int64) * activations
        return sign * model.posterior(np.where(configs == FULL_PRECISION, width, wide)).mean

    shown = ranker.target if label is None else f"{'' if better else 'minus '}{label}"
    sources = {
        "process": "a process on probed changes and labels",
        "length": "the length of the summed probed changes",
        "additive": "a sum over layers",
        "ensemble": "graph networks",
    }
    return Score(shown, sources[closed.kind], function, restorable=full is not None)


def _with_full_precision(predictor: LabelPredictor) -> tuple[LabelPredictor, int] | None:
    """The same predictor with one more option that changes nothing, and the position of that option."""
    match predictor:
        case ProcessPredictor():
            old = predictor.process
            process = ResponseProcess(
                F.pad(old.alone, (0, 0, 0, 1)),
                predictor.configs,
                predictor.warped,
                old.kernel,
                predictor.num_images,
            )
            return dataclasses.replace(predictor, process=process), old.alone.shape[2]
        case LengthPredictor():
            change = np.pad(predictor.change, ((0, 0), (0, 1), (0, 0)))
            return dataclasses.replace(predictor, change=change), predictor.change.shape[1]
    return None


def _by_labels(store: Store, label: str | None) -> Score:
    better = {one.name: one.larger_is_better for one in store.header.labels}
    label = next(iter(better)) if label is None else label
    if not better.get(label, True):
        label = f"-{label}"
    target = Target(label).evaluate(store)
    rows = np.flatnonzero(target.valid & (store.records.split != 2))
    if len(rows) < FEWEST:
        raise QsdError(
            f"{store.path}: {len(rows)} records with {label} explain nothing; label at least {FEWEST} with "
            "`qsd label`, or probe with `qsd probe`"
        )
    options = len(store.header.options)
    ridge = Ridge.fit(one_hot(store.records.config[rows], options), target.values[rows])
    table = ridge.weights.reshape(-1, options)

    def function(configs: np.ndarray) -> np.ndarray:
        return table[np.arange(len(table)), configs.astype(np.int64)].sum(axis=1)

    return Score(label, f"ridge regression on {len(rows)} records", function, restorable=False)
