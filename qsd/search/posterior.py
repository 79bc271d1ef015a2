"""What a predictor says about configs: a mean and a variance, in the unit of what is predicted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from scipy.stats import norm

Law = Literal["normal", "log-normal"]


@dataclass(frozen=True)
class Posterior:
    """The predictive distribution of n configs, measurement noise included.

    Attributes:
        mean: float64 [n].
        variance: float64 [n].
        law: Shape of the distribution. Mean and variance determine either; a log-normal one, of quantities
            that are positive, has its quantiles in the logarithm.
    """

    mean: np.ndarray
    variance: np.ndarray
    law: Law = "normal"

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, float64 [n]."""
        return np.sqrt(self.variance)

    @classmethod
    def of_logarithm(cls, mean: np.ndarray, variance: np.ndarray) -> Self:
        """The log-normal posterior of a quantity whose logarithm is normal with these moments."""
        expected = np.exp(mean + variance / 2)
        return cls(expected, np.expm1(variance) * expected**2, "log-normal")

    def quantile(self, probability: float) -> np.ndarray:
        """The values that are exceeded with probability 1 - `probability`, float64 [n]."""
        location, scale = self._location_scale()
        values = location + norm.ppf(probability) * scale
        return np.exp(values) if self.law == "log-normal" else values

    def cdf(self, value: np.ndarray | float) -> np.ndarray:
        """The probability of at most `value` (float or [n]), float64 [n]."""
        location, scale = self._location_scale()
        if self.law == "log-normal":
            with np.errstate(divide="ignore", invalid="ignore"):
                value = np.where(np.asarray(value) > 0, np.log(value), -np.inf)
        return norm.cdf(value, location, np.maximum(scale, 1e-300))

    def interval(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """The central interval that holds the value with that probability, two float64 [n]."""
        return self.quantile(0.5 - confidence / 2), self.quantile(0.5 + confidence / 2)

    def log_density(self, value: np.ndarray) -> np.ndarray:
        """Logarithm of the density at float [n] values, float64 [n]."""
        location, scale = self._location_scale()
        if self.law == "log-normal":
            with np.errstate(divide="ignore", invalid="ignore"):
                density = norm.logpdf(np.log(value), location, scale) - np.log(value)
            return np.where(np.asarray(value) > 0, density, -np.inf)
        return norm.logpdf(value, location, scale)

    def logarithm(self) -> "Posterior":
        """The normal posterior of the logarithm of a log-normal quantity."""
        if self.law != "log-normal":
            raise ValueError("only log-normal quantities have a normal logarithm")
        location, scale = self._location_scale()
        return Posterior(location, scale**2)

    def _location_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the normal distribution behind, of the logarithm where it is one."""
        if self.law == "normal":
            return self.mean, self.std
        variance = np.log1p(self.variance / self.mean**2)
        return np.log(self.mean) - variance / 2, np.sqrt(variance)


@runtime_checkable
class PosteriorPredictor(Protocol):
    """A predictor that knows how sure it is."""

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        """The posterior of int8 [n, L] configs with int8 [n, L] activations (None: 16 bits)."""


Predictor = PosteriorPredictor | Callable[[np.ndarray], np.ndarray]
"""Either an object with `posterior`, or a function int8 [n, L] -> float [n]; larger is better."""


@dataclass(frozen=True)
class Certain:
    """A function of configs as a predictor whose variance is 0.

    Attributes:
        function: int8 [n, L] -> float [n], larger is better.
    """

    function: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        """Its values; activations are ignored."""
        mean = np.asarray(self.function(configs), dtype=np.float64)
        return Posterior(mean, np.zeros_like(mean))


def as_predictor(predictor: Predictor) -> PosteriorPredictor:
    """The predictor, functions wrapped in `Certain`."""
    return predictor if isinstance(predictor, PosteriorPredictor) else Certain(predictor)
