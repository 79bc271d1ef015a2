"""The part of a ranker that is fitted in closed form: a sum over layers, and pairs of the outer layers.

What a layer's option costs is the sum of what it has in common with all layers, with its role, with its block
and with nothing else. Layers outside of all blocks (embedders, modulation, the last projection) are few and
weigh much more than the rest, so they have coefficients of their own, and of their options every pair has an
interaction, too. Each of these groups of coefficients has a normal prior; the prior variances, and the scale
on which damage adds up (:mod:`qsd.ranker.link`), are those under which the labels are most likely (empirical
Bayes; MacKay, "Bayesian interpolation", Neural Computation 4, 1992; pairs as a squared kernel: Rasmussen and
Williams, "Gaussian processes for machine learning", 2006, section 4.2). With few labels the shared groups
carry the model, with many the layers speak for themselves. A graph network then learns what is left.
"""

import dataclasses

import numpy as np
import torch
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize

from qsd.ranker.link import bend
from qsd.store import Header

_EXPECTED = {
    "error": 0.4,
    "size": 0.1,
    "role error by depth": 0.01,
    "block error": 0.05,
    "inner role error": 0.03,
    "outer role error": 0.1,
    "inner layer error": 0.01,
    "outer layer error": 0.05,
    "inner role option": 0.01,
    "outer role option": 0.3,
    "inner layer option": 0.03,
    "outer layer option": 0.02,
    "outer pairs": 0.03,
    "noise": 0.1,
}
_PAIRED = "outer role option"  # the group whose features interact
_LOG_DEVIATION = 2.0  # of the variances around those expected: families differ, a factor of 7 is no surprise
_POWER_DEVIATION = 0.5  # of the link's power around 0
_LARGEST_POWER = 0.8
_MEAN_VARIANCE = 100.0  # of the constant, in a standardized target: as good as unpenalized


@dataclasses.dataclass(frozen=True)
class AdditiveModel:
    """Contributions on the bent scale. L layers, O options, n training records, P pair features.

    Attributes:
        table: float64 [L, O], added up over layers; the constant is spread over all layers.
        pair_table: float64 [L, O, P], added up over layers, then squared.
        pair_weight: float64 [P], of the squares.
        power: of the link that bends the standardized target.
        left_out: float64 [n], bent prediction of each training record by the same model without that record.
        group_variance: prior variance by group, relative to the variance of the target.
        noise_variance: of what the model cannot express.
    """

    table: np.ndarray
    pair_table: np.ndarray
    pair_weight: np.ndarray
    power: float
    left_out: np.ndarray
    group_variance: dict[str, float]
    noise_variance: float

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Bent predictions, float64 [m], of configs int8 [m, L]."""
        layers, configs = np.arange(configs.shape[1]), configs.astype(np.int64)
        pairs = np.square(self.pair_table[layers, configs].sum(axis=1)) @ self.pair_weight
        return self.table[layers, configs].sum(axis=1) + pairs


def fit_additive_model(header: Header, configs: np.ndarray, target: np.ndarray) -> AdditiveModel:
    """Fits on training records.

    Args:
        header: layers, graph and option table.
        configs: int8 [n, L].
        target: float64 [n], standardized.
    """
    layers = np.arange(configs.shape[1])
    scaled: dict[str, np.ndarray] = {}  # groups so that records have mean 0 and mean square 1
    for name, values in option_groups(header).items():
        rows = values[layers, configs.astype(np.int64)].sum(axis=1)
        size = np.sqrt(max(float(rows.var(axis=0).sum()), 1e-300))
        scaled[name] = (values - rows.mean(axis=0) / len(layers)) / size
    rows_of = {name: values[layers, configs.astype(np.int64)].sum(axis=1) for name, values in scaled.items()}
    kernels = {name: rows @ rows.T for name, rows in rows_of.items()}
    kernels["outer pairs"] = kernels[_PAIRED] ** 2
    variances, noise, power = _most_likely(
        np.stack(list(kernels.values())),
        target,
        np.log([*(_EXPECTED[name] for name in kernels), _EXPECTED["noise"]]),
    )
    covariance = np.tensordot(variances, np.stack(list(kernels.values())), axes=1)
    inverse, _ = _inverse(covariance + _MEAN_VARIANCE + noise * np.eye(len(target)))
    bent, _ = _bent(target, power)
    weights = inverse @ bent
    variance = dict(zip(kernels, variances.tolist(), strict=True))
    table = np.full(header.relative_error.shape, _MEAN_VARIANCE * weights.sum() / len(layers))
    for name, values in scaled.items():
        table += values @ (variance[name] * (rows_of[name].T @ weights))
    products = (rows_of[_PAIRED].T * weights) @ rows_of[_PAIRED]
    pair_weight, directions = np.linalg.eigh(variance["outer pairs"] * products)
    return AdditiveModel(
        table=table,
        pair_table=scaled[_PAIRED] @ directions,
        pair_weight=pair_weight,
        power=power,
        left_out=bent - weights / np.diag(inverse),
        group_variance=variance,
        noise_variance=noise,
    )


def num_pair_features(header: Header) -> int:
    """P of a model for these layers and options."""
    return option_groups(header)[_PAIRED].shape[2]


def option_groups(header: Header) -> dict[str, np.ndarray]:
    """Features of options by group, each float64 [L, O, d]; a record's features are their sum over layers."""
    error = header.relative_error[..., None]
    roles = np.array([layer.role for layer in header.layers])
    blocks = np.array([layer.block for layer in header.layers])
    depth = np.array([layer.depth for layer in header.layers]) - 0.5
    option = np.eye(error.shape[1])
    role = _indicators(roles)
    groups = {
        "error": error,
        "size": header.num_bytes[..., None] / header.num_weights.sum(),
        "role error by depth": role[:, None] * error * depth[:, None, None],
        "block error": _indicators(blocks)[:, None] * error,
    }
    for name, inside in {"inner": blocks >= 0, "outer": blocks < 0}.items():
        for kind, members in {"role": role, "layer": np.eye(len(roles))}.items():
            own = members[:, members[inside].any(axis=0)] * inside[:, None]
            groups[f"{name} {kind} error"] = own[:, None] * error
            groups[f"{name} {kind} option"] = np.einsum("lm,op->lomp", own, option).reshape(
                *error.shape[:2], -1
            )
    return groups


def _indicators(values: np.ndarray) -> np.ndarray:
    """float64 [n, number of different values]."""
    return (values[:, None] == np.unique(values)).astype(np.float64)


def _most_likely(
    kernels: np.ndarray, target: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Variances of the groups and of the noise, and the link's power, that are most likely.

    Args:
        kernels: float64 [groups, n, n].
        target: float64 [n], standardized, so the link's Jacobian has the same determinant for every power.
        expected: float64 [groups + 1], logarithms of the variances expected, the noise last.
    """
    count, records = kernels.shape[:2]
    flat, identity = kernels.reshape(count, -1), np.eye(records)

    def cost(point: np.ndarray) -> tuple[float, np.ndarray]:
        logs, power = point[:-1], float(point[-1])
        variances = np.exp(logs)
        covariance = (variances[:count] @ flat).reshape(records, records)
        inverse, log_determinant = _inverse(covariance + variances[count] * identity + _MEAN_VARIANCE)
        bent, slope = _bent(target, power)
        weights = inverse @ bent
        surprise = (logs - expected) / _LOG_DEVIATION
        far = power / _POWER_DEVIATION
        value = 0.5 * (bent @ weights + log_determinant + surprise @ surprise + far * far)
        spread = inverse - np.outer(weights, weights)
        slopes = np.append(flat @ spread.ravel(), np.trace(spread))
        gradient = 0.5 * variances * slopes + surprise / _LOG_DEVIATION
        return value, np.append(gradient, weights @ slope + far / _POWER_DEVIATION)

    bounds = [(centre - 6, centre + 6) for centre in expected] + [(-_LARGEST_POWER, _LARGEST_POWER)]
    start = np.append(expected, 0.0)
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
    variances = np.exp(found[:-1])
    return variances[:count], float(variances[count]), float(found[-1])


def _inverse(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Inverse and log-determinant of a positive definite matrix."""
    factor, _ = dpotrf(covariance, lower=True)
    half, _ = dpotri(factor, lower=True)
    half = np.tril(half)
    return half + np.tril(half, -1).T, float(2 * np.log(np.diag(factor)).sum())


def _bent(target: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """:func:`qsd.ranker.link.bend` and its derivative by the power."""
    bent = bend(torch.from_numpy(target), power).numpy()
    power = power if abs(power) > 1e-3 else 1e-3
    return bent, (target * np.exp(power * target) - bent) / power
