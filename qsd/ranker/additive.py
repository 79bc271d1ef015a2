"""The additive part of a ranker: quality as a sum over layers, fitted in closed form.

What a layer's option costs is the sum of what it has in common with all layers, with its role, with its block
and with nothing else. Each of these groups of coefficients has a normal prior, and the prior variances are
those under which the labels are most likely (empirical Bayes; MacKay, "Bayesian interpolation", Neural
Computation 4, 1992). With few labels the shared groups carry the model, with many the layers speak for
themselves. A graph network then learns what is not additive.
"""

import dataclasses

import numpy as np
from scipy.optimize import minimize

from qsd.store import Header

_EXPECTED = {
    "error": 0.5,
    "size": 0.1,
    "role error": 0.2,
    "role error by depth": 0.03,
    "block error": 0.1,
    "layer error": 0.03,
    "role option": 0.03,
    "layer option": 0.02,
    "noise": 0.2,
}
_LOG_DEVIATION = 1.0  # of the variances around those expected: a factor of e either way is no surprise
_MEAN_VARIANCE = 100.0  # of the constant, in a standardized target: as good as unpenalized


@dataclasses.dataclass(frozen=True)
class AdditiveModel:
    """Contributions per layer and option. L layers, O options, n training records.

    Attributes:
        table: float64 [L, O], added up over layers; the constant is spread over all layers.
        left_out: float64 [n], prediction of each training record by the same model without that record.
        group_variance: prior variance by group, relative to the variance of the target.
        noise_variance: of what is not additive.
    """

    table: np.ndarray
    left_out: np.ndarray
    group_variance: dict[str, float]
    noise_variance: float

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Predictions, float64 [m], of configs int8 [m, L]."""
        return self.table[np.arange(configs.shape[1]), configs.astype(np.int64)].sum(axis=1)


def fit_additive_model(header: Header, configs: np.ndarray, target: np.ndarray) -> AdditiveModel:
    """Fits on training records.

    Args:
        header: layers, graph and option table.
        configs: int8 [n, L].
        target: float64 [n].
    """
    groups = option_groups(header)
    scale, mean = max(float(target.std()), 1e-12), float(target.mean())
    wanted = (target - mean) / scale
    layers = np.arange(configs.shape[1])
    kernels, columns, centers, sizes = [], [], [], []
    for values in groups.values():
        rows = values[layers, configs.astype(np.int64)].sum(axis=1)
        center = rows.mean(axis=0)
        rows = rows - center
        size = max(float(np.square(rows).sum()) / len(rows), 1e-300)
        kernels.append(rows @ rows.T / size)
        columns.append(rows)
        centers.append(center)
        sizes.append(size)
    variances, noise = _most_likely(
        np.stack(kernels), wanted, np.log([*(_EXPECTED[name] for name in groups), _EXPECTED["noise"]])
    )
    covariance = (
        np.tensordot(variances, np.stack(kernels), axes=1) + _MEAN_VARIANCE + noise * np.eye(len(wanted))
    )
    inverse = np.linalg.inv(covariance)
    weights = inverse @ wanted
    table = np.zeros(header.relative_error.shape)
    constant = _MEAN_VARIANCE * weights.sum()
    for values, rows, center, size, variance in zip(
        groups.values(), columns, centers, sizes, variances, strict=True
    ):
        coefficients = variance / size * (rows.T @ weights)
        table += values @ coefficients
        constant -= center @ coefficients
    return AdditiveModel(
        table=scale * table + (scale * constant + mean) / len(table),
        left_out=target - scale * weights / np.diag(inverse),
        group_variance=dict(zip(groups, variances.tolist(), strict=True)),
        noise_variance=float(noise),
    )


def option_groups(header: Header) -> dict[str, np.ndarray]:
    """Features of options by group, each float64 [L, O, d]; a record's features are their sum over layers."""
    error = header.relative_error[..., None]
    roles = np.array([layer.role for layer in header.layers])
    blocks = np.array([layer.block for layer in header.layers])
    depth = np.array([layer.depth for layer in header.layers]) - 0.5
    role = (roles[:, None] == np.unique(roles)).astype(np.float64)[:, None, :]
    block = (blocks[:, None] == np.unique(blocks)).astype(np.float64)[:, None, :]
    layer = np.eye(len(roles))[:, None, :]
    option = np.eye(error.shape[1])
    role_option = (role[:, :, :, None] * option[None, :, None, :]).reshape(*error.shape[:2], -1)
    layer_option = (layer[:, :, :, None] * option[None, :, None, :]).reshape(*error.shape[:2], -1)
    return {
        "error": error,
        "size": header.num_bytes[..., None] / header.num_weights.sum(),
        "role error": role * error,
        "role error by depth": role * error * depth[:, None, None],
        "block error": block * error,
        "layer error": layer * error,
        "role option": role_option,
        "layer option": layer_option,
    }


def _most_likely(kernels: np.ndarray, wanted: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, float]:
    """Variances of the groups and of the noise that are most likely given the target and what is expected."""
    count = len(kernels)
    identity = np.eye(len(wanted))

    def cost(logs: np.ndarray) -> tuple[float, np.ndarray]:
        variances = np.exp(logs)
        covariance = np.tensordot(variances[:count], kernels, axes=1) + variances[count] * identity
        covariance += _MEAN_VARIANCE
        inverse = np.linalg.inv(covariance)
        weights = inverse @ wanted
        surprise = (logs - expected) / _LOG_DEVIATION
        value = 0.5 * (wanted @ weights + np.linalg.slogdet(covariance)[1] + surprise @ surprise)
        spread = inverse - np.outer(weights, weights)
        slopes = [np.vdot(spread, kernel) for kernel in kernels] + [np.trace(spread)]
        return value, 0.5 * variances * np.array(slopes) + surprise / _LOG_DEVIATION

    bounds = [(centre - 6, centre + 6) for centre in expected]
    found = minimize(cost, expected, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100})
    variances = np.exp(found.x)
    return variances[:count], float(variances[count])
