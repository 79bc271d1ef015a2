"""What the universal ranker says of configs of a denoiser without labels, and how sure it is."""

import dataclasses
from typing import Any

import numpy as np

from qsd.ranker.universal.expected import Completed
from qsd.search.posterior import Posterior

_BATCH = 64
_SHORTEST = 1e-30


@dataclasses.dataclass(frozen=True)
class Calibration:
    """From scores to a target, as found on denoisers that the networks had not seen.

    Attributes:
        slope: of the target by the score.
        intercept: its mean over denoisers.
        intercept_variance: between denoisers.
        noise: variance of what neither explains, within a denoiser.
        factor: by which all variances grow for 90 % of the labels to lie in the central 90 % intervals.
    """

    slope: float = 1.0
    intercept: float = 0.0
    intercept_variance: float = 0.0
    noise: float = 0.0
    factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class UniversalPredictor:
    """Scores configs by the expected length of their change.

    Attributes:
        shared: by space, float32 [L, O, d], what expected changes share.
        rest: by space, float64 [L, O], lengths of what they do not.
        factors: by space, float64 [L, O, P], shared deviations of log energies.
        own: by space, float64 [L, O], variances of what is not shared.
        weights: float64 [S], of the spaces, of sum 1.
        calibration: to the target.
    """

    shared: tuple[np.ndarray, ...]
    rest: tuple[np.ndarray, ...]
    factors: tuple[np.ndarray, ...]
    own: tuple[np.ndarray, ...]
    weights: np.ndarray
    calibration: Calibration

    @classmethod
    def of(cls, completed: Completed, calibration: Calibration = Calibration()) -> "UniversalPredictor":
        """Of a denoiser."""
        shape = completed.expected.log_energy.shape[1:]
        return cls(
            shared=completed.shared,
            rest=completed.rest,
            factors=tuple(found.factor.reshape(*shape, -1) for found in completed.deviations),
            own=tuple(found.own.reshape(shape) for found in completed.deviations),
            weights=completed.expected.weights,
            calibration=calibration,
        )

    @property
    def kind(self) -> str:
        return "universal"

    def scores(self, configs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Minus the log length of the summed change, mean and variance, each float64 [n].

        To first order the log length moves with a log energy by the share of the squared length that the
        layer's change has in it; deviations are taken to be the same in all spaces. The mean is of second
        order: a sum whose larger part is uncertain is on average shorter than it looks, since its logarithm
        bends. Of the second derivatives those by two layers are left out but for the product of their shares.

        Args:
            configs: integers [n, L].
        """
        parts = [
            self._scores(configs[start : start + _BATCH].astype(np.int64))
            for start in range(0, len(configs), _BATCH)
        ]
        if not parts:
            return np.zeros(0), np.zeros(0)
        means, variances = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(variances)

    def posterior(self, configs: np.ndarray) -> Posterior:
        mean, variance = self.scores(configs)
        to = self.calibration
        variance = to.factor * (to.slope**2 * variance + to.noise + to.intercept_variance)
        return Posterior(to.intercept + to.slope * mean, variance)

    def energies(self) -> tuple[np.ndarray, ...]:
        """Minus the expected squared length of each option's change, by space, float64 [L, O] each."""
        parts = zip(self.shared, self.rest, strict=True)
        return tuple(-np.square(shared).sum(axis=-1) - np.square(rest) for shared, rest in parts)

    def tensors(self) -> dict[str, np.ndarray]:
        arrays = {"weights": self.weights}
        for name, parts in (
            ("shared", self.shared),
            ("rest", self.rest),
            ("factor", self.factors),
            ("own", self.own),
        ):
            arrays |= {f"{name}_{place}": part for place, part in enumerate(parts)}
        return arrays

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "calibration": dataclasses.asdict(self.calibration)}

    def _scores(self, configs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        layers = np.arange(configs.shape[1])
        total = np.zeros(len(configs))
        shared: np.ndarray | float = 0.0
        own = np.zeros(configs.shape)
        for weight, change, rest, factor, alone in zip(
            self.weights, self.shared, self.rest, self.factors, self.own, strict=True
        ):
            chosen, left = change[layers, configs], np.square(rest[layers, configs])  # [n, L, d], [n, L]
            summed = chosen.sum(axis=1)
            square = (np.square(summed).sum(axis=1) + left.sum(axis=1)).clip(_SHORTEST)
            share = (np.einsum("nld,nd->nl", chosen, summed) + left) / square[:, None]
            energy = (np.square(chosen).sum(axis=2) + left) / square[:, None]
            moved = np.einsum("nl,nlp->np", share, factor[layers, configs], optimize=True)
            moved_alone = share * np.sqrt(alone[layers, configs])
            spread = (np.square(factor).sum(axis=2) + alone)[layers, configs]
            bend = ((share + energy) * spread).sum(axis=1) / 2
            bend -= np.square(moved).sum(axis=1) + np.square(moved_alone).sum(axis=1)
            total += weight * (np.log(square) + bend / 2)
            shared = shared + weight * moved
            own += weight * moved_alone
        variance = np.square(shared).sum(axis=1) + np.square(own).sum(axis=1)
        return -total, variance
