"""The posterior of a Gaussian process on responses: its mean and variance for configs nobody measured.

The process is that of :mod:`qsd.ranker.responses`, here with its variance (Rasmussen and Williams, "Gaussian
processes for machine learning", 2006, section 2.2), for one label and all records that may be learned from.
"""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from torch import Tensor

from qsd.ranker.evidence import MEAN_VARIANCE
from qsd.ranker.responses import (
    ImageCounts,
    ResponseModel,
    log_length,
    squared_distances,
    total_change,
    unit_length,
)
from qsd.store import Responses

_BATCH = 512


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Hyper-parameters of the process on the warped scale. S spaces, d coordinates.

    Attributes:
        trend: float64 [S], variance of the slope on the standardized logarithm of a change's length.
        length_mean, length_std: float64 [S], mean and standard deviation of that logarithm over the records.
        form: float64 [S], variance of the quadratic form of the direction.
        process: variance of the process.
        scale: float64 [S, d], of squared coordinates in its exponent.
        noise: variance of what configs do not explain.
    """

    trend: np.ndarray
    length_mean: np.ndarray
    length_std: np.ndarray
    form: np.ndarray
    process: float
    scale: np.ndarray
    noise: float

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays to store; :meth:`of` restores the kernel."""
        return {
            name: np.atleast_1d(np.asarray(value, np.float64))
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """From what :meth:`tensors` gave."""
        return cls(
            trend=tensors["trend"],
            length_mean=tensors["length_mean"],
            length_std=tensors["length_std"],
            form=tensors["form"],
            process=float(tensors["process"][0]),
            scale=tensors["scale"],
            noise=float(tensors["noise"][0]),
        )

    @classmethod
    def fitted(cls, model: ResponseModel) -> Self:
        """Of a model that was fitted."""
        return cls(
            *(model.trend, model.length_mean, model.length_std),
            model.form * model.process,
            model.process,
            model.scale,
            model.noise,
        )


class ResponseProcess:
    """The process conditioned on n records.

    Args:
        alone: float64 [S, L, O, d], what each option does alone (:func:`stacked`).
        configs: int8 [n, L].
        warped: float64 [n], standardized and warped labels.
        kernel: hyper-parameters.
        num_images: int [n], behind each label; None: all alike. Predictions are of labels on the most.
    """

    def __init__(
        self,
        alone: Tensor,
        configs: np.ndarray,
        warped: np.ndarray,
        kernel: Kernel,
        num_images: np.ndarray | None = None,
    ) -> None:
        self.kernel = kernel
        self.alone = alone
        self._configs = configs
        self._known = total_change(torch.from_numpy(configs), alone)
        covariance = self._covariance(self._known, self._known)
        self._counts = ImageCounts.of(num_images, len(configs))
        covariance += self._counts.offset
        covariance[np.diag_indices(len(configs))] += kernel.noise * self._counts.noise
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, warped)

    def __call__(self, configs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of labels, noise included, on the warped scale, each float64 [m].

        Args:
            configs: int8 [m, L].
        """
        parts = [self._part(configs[start : start + _BATCH]) for start in range(0, len(configs), _BATCH)]
        if not parts:
            return np.zeros(0), np.zeros(0)
        means, variances = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(variances)

    def left_out(self, warped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each record by the process without that record, each float64 [n]."""
        variance = 1 / np.diag(cho_solve(self._factor, np.eye(len(warped))))
        return warped - self._weights * variance, variance

    def _part(self, configs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        changes = total_change(torch.from_numpy(configs), self.alone)
        cross = self._covariance(changes, self._known) + self._counts.of_most
        solved = solve_triangular(self._factor[0], cross.T, lower=True, check_finite=False)
        kernel, lengths = self.kernel, self._standardized(changes)
        prior = MEAN_VARIANCE + kernel.trend @ lengths**2 + kernel.form.sum() + kernel.process
        prior = prior + self._counts.of_most.max(initial=0.0)
        explained = np.einsum("nm,nm->m", solved, solved)
        return cross @ self._weights, np.maximum(prior - explained, 1e-12) + kernel.noise

    def _covariance(self, one: Tensor, other: Tensor) -> np.ndarray:
        """Of changes [S, m, d] and [S, n, d], float64 [m, n]."""
        kernel = self.kernel
        unit = torch.from_numpy(np.sqrt(kernel.scale))[:, None]
        distance = squared_distances(one * unit, other * unit).sum(dim=0)
        covariance = MEAN_VARIANCE + kernel.process * torch.exp(-distance).numpy()
        lengths = (self._standardized(one), self._standardized(other))
        covariance += np.einsum("s,sm,sn->mn", kernel.trend, *lengths)
        if kernel.form.any():
            cosine = unit_length(one) @ unit_length(other).mT
            covariance += np.einsum("s,smn->mn", kernel.form, cosine.square().numpy())
        return covariance

    def _standardized(self, changes: Tensor) -> np.ndarray:
        lengths = log_length(changes, torch.ones(1, dtype=changes.dtype)).numpy()
        return (lengths - self.kernel.length_mean[:, None]) / self.kernel.length_std[:, None]


def stacked(responses: Responses) -> Tensor:
    """What each option does alone, float64 [S, L, O, d], spaces of fewer coordinates padded with zeros."""
    spaces = [torch.from_numpy(values.astype(np.float64)) for values in responses.spaces.values()]
    widest = max(values.shape[-1] for values in spaces)
    return torch.stack([F.pad(values, (0, widest - values.shape[-1])) for values in spaces])
