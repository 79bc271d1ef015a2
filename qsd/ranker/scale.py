"""Between the unit of a label and the scale on which it is learned: logarithm, standardization, warping."""

import dataclasses
from typing import Any, Self

import numpy as np
import torch

from qsd.ranker.warping import unwarp, warp
from qsd.search.posterior import Posterior


@dataclasses.dataclass(frozen=True)
class Scale:
    """How one label is learned.

    Attributes:
        log: whether its logarithm is learned: distances that are positive, such as FID.
        mean, std: of what is learned over the records.
        power: of the warping.
        low, high: range of the standardized values over the records.
    """

    log: bool
    mean: float
    std: float
    power: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, *, log: bool) -> Self:
        """The scale of labels float64 [n], not warped yet."""
        learned = np.log(values) if log else values
        mean, std = float(learned.mean()), max(float(learned.std()), 1e-12)
        standardized = (learned - mean) / std
        return cls(log, mean, std, 0.0, float(standardized.min()), float(standardized.max()))

    def standardized(self, values: np.ndarray) -> np.ndarray:
        """Labels float64 [n] in standard deviations from the mean."""
        return ((np.log(values) if self.log else values) - self.mean) / self.std

    def warped(self, values: np.ndarray) -> np.ndarray:
        """Labels float64 [n] as the models see them."""
        return warp(torch.from_numpy(self.standardized(values)), self.power).numpy()

    def posterior(self, mean: np.ndarray, variance: np.ndarray) -> Posterior:
        """From moments on the warped scale to a posterior in the label's unit.

        The warping is taken to be straight over the width of the distribution (the delta method).

        Args:
            mean: float64 [n].
            variance: float64 [n].
        """
        standardized = unwarp(torch.from_numpy(mean), self.power, self.low, self.high).numpy()
        slope = np.exp(-self.power * np.clip(standardized, self.low, self.high))
        centre, width = standardized * self.std + self.mean, variance * (slope * self.std) ** 2
        return Posterior.of_logarithm(centre, width) if self.log else Posterior(centre, width)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``Scale(**that)`` restores the scale."""
        return dataclasses.asdict(self)
