"""Gaussian processes on a warped target, with the hyper-parameters under which the labels are most likely.

Type-II maximum likelihood with priors: MacKay, "Bayesian interpolation" (Neural Computation 4, 1992);
Rasmussen and Williams, "Gaussian processes for machine learning" (2006), section 5.4.1.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

from qsd.ranker.warping import warp

MEAN_VARIANCE = 100.0
"""Prior variance of the constant, in a standardized target: as good as unpenalized."""
_POWER_DEVIATION = 0.5  # of the power of the warping around 0
_LARGEST_POWER = 0.8
_FARTHEST = 6.0  # from the expected logarithm of a hyper-parameter
_MOST_ITERATIONS = 60

Slopes = Callable[[np.ndarray], np.ndarray]
"""Maps the derivative by the covariance, float64 [n, n], to those by the logarithms, float64 [P]."""
Covariance = Callable[[np.ndarray], tuple[np.ndarray, Slopes]]
"""Maps logarithms of hyper-parameters, float64 [P], to the covariance of the records, float64 [n, n], without
the constant's part, and to its slopes."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A process fitted to n records.

    Attributes:
        values: float64 [P], hyper-parameters.
        power: of the warping of the standardized target.
        weights: float64 [n]; a prediction is its covariance with the records times these.
        left_out: float64 [n], warped prediction of each record by the same process without that record.
    """

    values: np.ndarray
    power: float
    weights: np.ndarray
    left_out: np.ndarray


def most_likely(
    covariance: Covariance, target: np.ndarray, expected: np.ndarray, deviation: np.ndarray
) -> Evidence:
    """Fits hyper-parameters, and the power of the warping, by gradient descent.

    Args:
        covariance: of the records, noise included.
        target: float64 [n], standardized, so its Jacobian has the same determinant for every power.
        expected: float64 [P], hyper-parameters before any label was seen.
        deviation: float64 [P], of their logarithms.
    """
    centre = np.log(expected)

    def solve(logs: np.ndarray, power: float) -> tuple[Slopes, np.ndarray, float, np.ndarray, np.ndarray]:
        matrix, slopes = covariance(logs)
        inverse, log_determinant = _inverse(matrix + MEAN_VARIANCE)
        warped, slope = _warped(target, power)
        return slopes, inverse, log_determinant, warped, slope

    def cost(point: np.ndarray) -> tuple[float, np.ndarray]:
        logs, power = point[:-1], float(point[-1])
        slopes, inverse, log_determinant, warped, slope = solve(logs, power)
        weights = inverse @ warped
        surprise = (logs - centre) / deviation
        far = power / _POWER_DEVIATION
        value = 0.5 * (warped @ weights + log_determinant + surprise @ surprise + far * far)
        gradient = 0.5 * slopes(inverse - np.outer(weights, weights)) + surprise / deviation
        return value, np.append(gradient, weights @ slope + far / _POWER_DEVIATION)

    bounds = [(at - _FARTHEST, at + _FARTHEST) for at in centre] + [(-_LARGEST_POWER, _LARGEST_POWER)]
    found = minimize(
        cost,
        np.append(centre, 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": _MOST_ITERATIONS},
    ).x
    _, inverse, _, warped, _ = solve(found[:-1], float(found[-1]))
    weights = inverse @ warped
    return Evidence(np.exp(found[:-1]), float(found[-1]), weights, warped - weights / np.diag(inverse))


def _inverse(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Inverse and log-determinant of a positive definite matrix."""
    factor, _ = dpotrf(covariance, lower=True)
    half, _ = dpotri(factor, lower=True)
    half = np.tril(half)
    return half + np.tril(half, -1).T, float(2 * np.log(np.diag(factor)).sum())


def _warped(target: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """:func:`qsd.ranker.warping.warp` and its derivative by the power."""
    warped = warp(torch.from_numpy(target), power).numpy()
    power = power if abs(power) > 1e-3 else 1e-3
    return warped, (target * np.exp(power * target) - warped) / power
