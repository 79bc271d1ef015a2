"""A sum over layers, fitted in closed form: what each option of each layer contributes to the target.

What a layer's option costs is the sum of what it has in common with all layers, with its role, with its block
and with nothing else. Layers outside of all blocks (embedders, modulation, the last projection) are few and
weigh much more than the rest, so they have coefficients of their own. Each of these groups of coefficients
has a normal prior, whose variance is found with :mod:`qsd.ranker.evidence`: with few labels the shared groups
carry the model, with many the layers speak for themselves.
"""

import dataclasses

import numpy as np

from qsd.ranker.evidence import MEAN_VARIANCE, Slopes, most_likely
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
    "noise": 0.1,
}
_LOG_DEVIATION = 2.0  # of the variances around those expected: families differ, a factor of 7 is no surprise


@dataclasses.dataclass(frozen=True)
class AdditiveModel:
    """Contributions on the warped scale. L layers, O options, n training records.

    Attributes:
        table: float64 [L, O], added up over layers; the constant is spread over all layers.
        power: of the warping of the standardized target.
        left_out: float64 [n], warped prediction of each record by the same model without that record.
        group_variance: prior variance by group and of the noise, relative to the variance of the target.
    """

    table: np.ndarray
    power: float
    left_out: np.ndarray
    group_variance: dict[str, float]

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Warped predictions, float64 [m], of configs int8 [m, L]."""
        return added_up(self.table, configs)


def fit_additive_model(header: Header, configs: np.ndarray, target: np.ndarray) -> AdditiveModel:
    """Fits on training records.

    Args:
        header: layers, graph and option table.
        configs: int8 [n, L].
        target: float64 [n], standardized.
    """
    groups = {name: scaled(values, configs) for name, values in option_groups(header).items()}
    rows_of = {name: added_up(values, configs) for name, values in groups.items()}
    kernels = np.stack([rows @ rows.T for rows in rows_of.values()] + [np.eye(len(target))])
    flat = kernels.reshape(len(kernels), -1)

    def covariance(logs: np.ndarray) -> tuple[np.ndarray, Slopes]:
        variances = np.exp(logs)
        return (variances @ flat).reshape(kernels.shape[1:]), lambda by: variances * (flat @ by.ravel())

    expected = np.array([_EXPECTED[name] for name in (*groups, "noise")])
    found = most_likely(covariance, target, expected, np.full(len(expected), _LOG_DEVIATION))
    variance = dict(zip((*groups, "noise"), found.values.tolist(), strict=True))
    table = np.full(header.relative_error.shape, MEAN_VARIANCE * found.weights.sum() / configs.shape[1])
    for name, values in groups.items():
        table += values @ (variance[name] * (rows_of[name].T @ found.weights))
    return AdditiveModel(table, found.power, found.left_out, variance)


def added_up(values: np.ndarray, configs: np.ndarray) -> np.ndarray:
    """Sums over the layers of configs int8 [n, L] of values [L, O, ...], float64 [n, ...]."""
    return values[np.arange(configs.shape[1]), configs.astype(np.int64)].sum(axis=1)


def scaled(values: np.ndarray, configs: np.ndarray) -> np.ndarray:
    """Option features [L, O, d] shifted and scaled so that configs have mean 0 and mean square 1."""
    rows = added_up(values, configs)
    size = np.sqrt(max(float(rows.var(axis=0).sum()), 1e-300))
    return (values - rows.mean(axis=0) / configs.shape[1]) / size


def option_groups(header: Header) -> dict[str, np.ndarray]:
    """Features of options by group, each float64 [L, O, d]; a record's features are their sum over layers."""
    available = header.available[..., None]
    error = np.where(available, header.relative_error[..., None], 0.0)
    size = np.where(available, header.num_bytes[..., None], 0)
    groups = {"error": error, "size": size / header.num_weights.sum()}
    roles = np.array([layer.role for layer in header.layers])
    blocks = np.array([layer.block for layer in header.layers])
    depth = np.array([layer.depth for layer in header.layers]) - 0.5
    option = np.eye(error.shape[1])
    role = _indicators(roles)
    groups["role error by depth"] = role[:, None] * error * depth[:, None, None]
    groups["block error"] = _indicators(blocks)[:, None] * error
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
