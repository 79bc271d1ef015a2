"""Answers in the user's units: the smallest config whose labels keep their bounds with a confidence."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from qsd.ranker.checkpoint import Ranker
from qsd.search.budget import Budget
from qsd.search.front import Front
from qsd.search.methods.evolution import evolved
from qsd.search.posterior import Posterior
from qsd.search.task import Task
from qsd.support.errors import QsdError

_PASSES = 6
_FARTHEST = 8.0  # standard deviations


@dataclasses.dataclass(frozen=True)
class Bound:
    """A label and what it may be.

    Attributes:
        label: a label of the store.
        value: the largest (or smallest) value allowed, in the label's unit.
        larger_is_better: whether `value` is the smallest one allowed.
    """

    label: str
    value: float
    larger_is_better: bool = False

    def __str__(self) -> str:
        return f"{self.label} {'>=' if self.larger_is_better else '<='} {self.value:.4g}"

    def holds(self, posterior: Posterior) -> np.ndarray:
        """Probability that it holds, float64 [n]."""
        below = posterior.cdf(self.value)
        return 1 - below if self.larger_is_better else below


@dataclasses.dataclass(frozen=True)
class BoundsPredictor:
    """Scores configs by how safely all bounds hold, in standard deviations of the least safe one.

    Attributes:
        ranker: predicts the labels.
        bounds: at least one.
    """

    ranker: Ranker
    bounds: Sequence[Bound]

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        """The score with variance 0; what is unsure about a config is in it already."""
        probability = np.min(
            [bound.holds(self.ranker.posterior(configs, activations, bound.label)) for bound in self.bounds],
            axis=0,
        )
        score = np.clip(norm.ppf(probability), -_FARTHEST, _FARTHEST)
        # far beyond the bound all probabilities are alike; the target still tells better from worse
        target = self.ranker.posterior(configs, activations).mean
        return Posterior(score + 1e-6 * np.tanh(target / 10), np.zeros(len(configs)))


def full_precision_bound(ranker: Ranker, factor: float, label: str = "fid") -> Bound:
    """The bound that a label is at most ``factor`` times that of full precision.

    Raises:
        QsdError: the ranker does not know full precision's label, or the factor is below 1.
    """
    if not 1 <= factor < np.inf:
        raise QsdError(f"within {factor}x: give a factor of at least 1, such as 1.1x")
    if label not in ranker.full_precision:
        raise QsdError(
            f"{ranker.folder}: its store does not say full precision's {label}; give --max-fid or --min-psnr"
        )
    return Bound(label, factor * ranker.full_precision[label])


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the smallest config with its bounds is, and how sure that is.

    Attributes:
        front: up to the smallest config whose bounds hold with the confidence; that is its last member. What
            is predicted of its members is the ranker's target; more of it may be worse for a bound.
        holds: probability that all bounds hold (of the least safe one), by member, float64 [n].
        even: bytes of the smallest config whose bounds hold as likely as not; None where there is none.
    """

    front: Front
    holds: np.ndarray
    even: int | None

    @property
    def probability(self) -> float:
        """That all bounds hold for the smallest config that was asked for."""
        return float(self.holds[-1])


def smallest_within(task: Task, ranker: Ranker, bounds: Sequence[Bound], confidence: float) -> Answer:
    """Searches the smallest config whose bounds hold, by evolution under shrinking budgets.

    Args:
        task: space, settings and the largest budget allowed; its predictor is replaced.
        ranker: predicts the labels.
        bounds: at least one.
        confidence: with which each must hold.

    Raises:
        QsdError: a label is not predicted, the confidence is no probability above one half, or no config
            within the budget reaches it.
    """
    if not 0.5 <= confidence < 1:
        raise QsdError(f"confidence {confidence}: give 0.5 to below 1, such as 0.9")
    for bound in bounds:
        if not np.isfinite(bound.value):
            raise QsdError(f"bound {bound}: give a number")
        if bound.label not in ranker.labels:
            raise QsdError(
                f"{ranker.folder}: does not predict {bound.label!r}, only {', '.join(ranker.labels)}; label "
                "the store with it or bound another label"
            )
    needed = float(norm.ppf(confidence))
    asked = task
    task = dataclasses.replace(task, predictor=BoundsPredictor(ranker, bounds))
    even: int | None = None
    found: Front | None = None
    best = -np.inf
    for step in range(_PASSES):
        front = evolved(dataclasses.replace(task, seed=task.seed + step), "evolution")
        best = max(best, float(front.predicted.max()))
        likely = front.num_bytes[front.predicted >= 0]
        even = min([*likely.tolist(), even] if even is not None else likely.tolist(), default=None)
        reaching = np.flatnonzero(front.predicted >= needed)
        if not len(reaching):
            break
        last = int(reaching[0])
        size = int(front.num_bytes[last])
        if found is not None and size >= int(found.num_bytes[-1]):
            break
        found = _cut(front, last)
        shrunk = Budget(size, float(task.space.bits_of(size)))
        task = dataclasses.replace(task, budget=shrunk)
    if found is None:
        probability = float(norm.cdf(best))
        told = " and ".join(map(str, bounds))
        hint = (
            f"the data cannot tell: {even} bytes keep it as likely as not; label more configs near that size "
            "(`qsd search --verify`), lower --confidence, or ease the bound"
            if even is not None
            else "ease the bound or allow larger options"
        )
        raise QsdError(
            f"no config within {task.budget.max_bytes} bytes keeps {told} with confidence {confidence}; the "
            f"safest has {probability:.0%}; {hint}"
        )
    settings = found.meta.settings | {"bounds": list(map(str, bounds)), "bounds_confidence": confidence}
    target = ranker.posterior(found.configs)
    meta = dataclasses.replace(asked.meta_of("evolution", 0), settings=settings)
    front = dataclasses.replace(found, predicted=target.mean, std=target.std, meta=meta)
    return Answer(front, norm.cdf(found.predicted), even)


def _cut(front: Front, last: int) -> Front:
    """The front up to a member."""
    kept = slice(0, last + 1)
    return dataclasses.replace(
        front,
        configs=front.configs[kept],
        predicted=front.predicted[kept],
        std=front.std[kept],
        num_bytes=front.num_bytes[kept],
        avg_bits=front.avg_bits[kept],
        measured=front.measured[kept],
    )
