"""A Gaussian process over configs: layers whose errors meet do not add up.

Two configs rank alike where their weights are alike. Two options of a layer make errors that have little to
do with each other, so the squared distance between the two versions of its weights is the sum of their
squared errors; what that distance means for the images differs by layer and is learned from the labels:

    covariance of configs a and b = variance * exp(-sum over layers l of scale[l] * distance[l, a[l], b[l]])

which is the exponentiated overlap kernel of Wan et al., "Think global and act local" (ICML 2021, section 3.2)
with relevance by layer (Rasmussen and Williams, "Gaussian processes for machine learning", 2006, section
5.1), where an overlap of 0 becomes a distance. The product over layers holds interactions of all orders. What
is expected of a layer's scale is the variance of its contributions in :mod:`qsd.ranker.additive`.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qsd.ranker.additive import AdditiveModel, added_up, common_groups, scaled
from qsd.ranker.evidence import MEAN_VARIANCE, Slopes, most_likely
from qsd.store import Header

_EXPECTED = {"error": 0.4, "size": 0.1, "interactions": 0.5, "noise": 0.1}  # variances
_LOG_DEVIATION = 2.0  # of these
_SMALLEST_SHARE = 1e-4  # of a layer in the scales


@dataclasses.dataclass(frozen=True)
class ProcessSettings:
    """What is expected of the process before it sees interactions.

    Attributes:
        expected_scale: sum of the scales of all layers; the smaller, the smoother.
        scale_deviation: of the logarithm of a layer's scale around its expected share of that sum.
        error_power: a distance is the sum of two relative errors to this power.
    """

    expected_scale: float = 0.5
    scale_deviation: float = 1.0
    error_power: float = 2.0


@dataclasses.dataclass(frozen=True)
class InteractionModel:
    """A trend that adds up over layers, and a process. L layers, O options, n training records.

    Attributes:
        trend: float64 [L, O], by relative error and size, added up over layers; holds the constant.
        distance: float64 [L, O, O], times the scale of the layer.
        known: int8 [n, L], the training configs.
        weight: float64 [n], of the similarities to them.
        power: of the link that bends the standardized target.
        left_out: float64 [n], bent prediction of each training record by the same model without that record.
    """

    trend: np.ndarray
    distance: np.ndarray
    known: np.ndarray
    weight: np.ndarray
    power: float
    left_out: np.ndarray

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Bent predictions, float64 [m], of configs int8 [m, L]."""
        alike = similarity(*map(torch.from_numpy, (configs, self.known, self.distance)))
        return added_up(self.trend, configs) + alike.numpy() @ self.weight


def similarity(configs: Tensor, known: Tensor, distance: Tensor) -> Tensor:
    """exp(-sum over layers of distances), float [m, n].

    Args:
        configs: integer [m, L].
        known: integer [n, L].
        distance: float [L, O, O].
    """
    layers = torch.arange(len(distance), device=distance.device)
    chosen = F.one_hot(known.long(), distance.shape[1]).to(distance.dtype).flatten(1)
    return torch.exp(-distance[layers, configs.long()].flatten(1) @ chosen.T)


def fit_interaction_model(
    header: Header,
    configs: np.ndarray,
    target: np.ndarray,
    additive: AdditiveModel,
    settings: ProcessSettings = ProcessSettings(),
) -> InteractionModel:
    """Fits on training records.

    Args:
        header: layers and option table.
        configs: int8 [n, L].
        target: float64 [n], standardized.
        additive: fitted to the same records.
        settings: what is expected.
    """
    groups = {name: scaled(values, configs) for name, values in common_groups(header).items()}
    rows_of = {name: added_up(values, configs) for name, values in groups.items()}
    trends = np.stack([rows @ rows.T for rows in rows_of.values()])
    flat, count = trends.reshape(len(trends), -1), len(trends)
    between = option_distances(header.relative_error, settings.error_power)
    num_layers, num_options = header.relative_error.shape
    chosen = np.eye(num_options)[configs.astype(np.int64)].reshape(len(configs), -1)
    distances = between[np.arange(num_layers), configs.astype(np.int64)].reshape(len(configs), -1)

    def covariance(logs: np.ndarray) -> tuple[np.ndarray, Slopes]:
        variances, scale = np.exp(logs[: count + 2]), np.exp(logs[count + 2 :])
        alike = np.exp(-(distances * np.repeat(scale, num_options)) @ chosen.T)
        matrix = (variances[:count] @ flat).reshape(alike.shape) + variances[count] * alike
        matrix[np.diag_indices_from(matrix)] += variances[count + 1]

        def slopes(by: np.ndarray) -> np.ndarray:
            pulled = by * alike
            by_scale = ((pulled @ chosen) * distances).sum(axis=0).reshape(num_layers, -1).sum(axis=1)
            by_variance = np.append(flat @ by.ravel(), [pulled.sum(), np.trace(by)])
            return np.append(variances * by_variance, -variances[count] * scale * by_scale)

        return matrix, slopes

    contributed = additive.table.var(axis=1)
    share = contributed / max(contributed.sum(), 1e-300) + _SMALLEST_SHARE
    variances = [_EXPECTED[name] for name in (*groups, "interactions", "noise")]
    found = most_likely(
        covariance,
        target,
        np.append(variances, settings.expected_scale * share),
        np.repeat([_LOG_DEVIATION, settings.scale_deviation], [count + 2, num_layers]),
    )
    trend = np.full(between.shape[:2], MEAN_VARIANCE * found.weights.sum() / num_layers)
    for variance, name in zip(found.values, groups, strict=False):
        trend += groups[name] @ (variance * (rows_of[name].T @ found.weights))
    return InteractionModel(
        trend=trend,
        distance=between * found.values[count + 2 :, None, None],
        known=configs.astype(np.int8),
        weight=found.values[count] * found.weights,
        power=found.power,
        left_out=found.left_out,
    )


def option_distances(relative_error: np.ndarray, power: float = 2.0) -> np.ndarray:
    """Squared distances of the options of each layer, mean 1 over different options, float64 [L, O, O].

    Args:
        relative_error: float64 [L, O], norm of the error by the norm of the weights.
        power: of the relative error.
    """
    different = 1.0 - np.eye(relative_error.shape[1])
    squared = relative_error**power
    distance = (squared[:, :, None] + squared[:, None]) * different
    mean = distance.sum(axis=(1, 2), keepdims=True) / max(different.sum(), 1.0)
    return distance / np.maximum(mean, 1e-300)
