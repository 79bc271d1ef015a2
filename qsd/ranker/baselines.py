"""What a ranker has to beat: linear models on configs, and rules that need no labels."""

import dataclasses
from collections.abc import Callable
from typing import Self

import numpy as np

from qsd.bank import sizes
from qsd.store import Header, Responses

_PENALTIES = np.logspace(-2, 4, 19)
_NUM_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Ridge regression with an unpenalized mean.

    Attributes:
        weights: float64 [p].
        center: float64 [p], mean of the training rows.
        offset: mean of the training targets.
        penalty: the penalty chosen.
    """

    weights: np.ndarray
    center: np.ndarray
    offset: float
    penalty: float

    @classmethod
    def fit(cls, rows: np.ndarray, target: np.ndarray, seed: int = 0) -> Self:
        """Fits, with the penalty that has the least squared error in a 5-fold cross-validation.

        Args:
            rows: float64 [n, p], training records only.
            target: float64 [n].
            seed: of the folds.
        """
        fold = np.random.default_rng(seed).permutation(len(rows)) % min(_NUM_FOLDS, len(rows))
        errors = np.zeros(len(_PENALTIES))
        for held_out in np.unique(fold) if len(rows) > 1 else ():
            inside = fold != held_out
            solutions, center, offset = _ridge_path(rows[inside], target[inside])
            predicted = (rows[~inside] - center) @ solutions + offset
            errors += ((predicted - target[~inside, None]) ** 2).sum(axis=0)
        best = int(errors.argmin())
        solutions, center, offset = _ridge_path(rows, target)
        return cls(solutions[:, best], center, offset, float(_PENALTIES[best]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Predictions, float64 [n], for rows [n, p]."""
        return (rows - self.center) @ self.weights + self.offset


def one_hot(configs: np.ndarray, num_options: int) -> np.ndarray:
    """Configs int8 [n, L] as indicator rows, float64 [n, L * O]."""
    return (configs[:, :, None] == np.arange(num_options)).reshape(len(configs), -1).astype(np.float64)


def error_rows(header: Header, configs: np.ndarray) -> np.ndarray:
    """Standardized log relative errors per layer and three sums over layers, float64 [n, L + 3].

    The one-hots span the errors already; beside them, the errors tell a penalized regression which
    directions are worth their price.
    """
    relative = header.relative_error[np.arange(configs.shape[1]), configs.astype(np.int64)]
    table = np.log(header.relative_error.clip(1e-8))
    mean, std = np.nanmean(table, axis=1), np.nanstd(table, axis=1).clip(1e-8)
    sums = np.stack([relative.sum(1), (relative**2).sum(1), np.log(relative.clip(1e-8)).sum(1)], axis=1)
    sums = (sums - sums.mean(axis=0)) / sums.std(axis=0).clip(1e-12)
    return np.concatenate([(np.log(relative.clip(1e-8)) - mean) / std, sums], axis=1)


def average_bits(header: Header, configs: np.ndarray) -> np.ndarray:
    """Bits per weight including codebooks and scales, float64 [n]."""
    return sizes.average_bits(sizes.config_bytes(configs, header.num_bytes), header.num_weights)


def _ridge_one_hot(
    header: Header, configs: np.ndarray, target: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    options = len(header.options)
    return Ridge.fit(one_hot(configs, options), target)(one_hot(queries, options))


def _ridge_with_errors(
    header: Header, configs: np.ndarray, target: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    both = np.concatenate([configs, queries])  # sums are standardized by configs alone, never by labels
    rows = np.concatenate([one_hot(both, len(header.options)), error_rows(header, both)], axis=1)
    return Ridge.fit(rows[: len(configs)], target)(rows[len(configs) :])


def _sum_of_errors(
    header: Header, configs: np.ndarray, target: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    return -header.relative_error[np.arange(queries.shape[1]), queries.astype(np.int64)].sum(axis=1)


def _average_bits(header: Header, configs: np.ndarray, target: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return average_bits(header, queries)


Baseline = Callable[[Header, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(header, training configs int8 [n, L], their targets [n], queries int8 [m, L]) -> predictions [m]."""

BASELINES: dict[str, Baseline] = {
    "ridge on one-hots": _ridge_one_hot,
    "ridge on one-hots + errors": _ridge_with_errors,
    "sum of errors": _sum_of_errors,
    "average bits": _average_bits,
}


def probed_length(responses: Responses, queries: np.ndarray) -> np.ndarray:
    """Minus the squared length of the sum of what options do alone to the images, float64 [m].

    The rule that needs a probed store and no labels: to first order the mean square change of the images'
    features, or of the latents where there are none.
    """
    space = responses.spaces.get("features", responses.spaces["latents"]).astype(np.float64)
    changes = space[np.arange(queries.shape[1]), queries.astype(np.int64)].sum(axis=1)
    return -np.square(changes).sum(axis=1)


def _ridge_path(rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Solutions for all penalties, [p, penalties], with the mean of rows [p] and of the target."""
    center, offset = rows.mean(axis=0), float(target.mean())
    left, singular, right = np.linalg.svd(rows - center, full_matrices=False)
    projected = left.T @ (target - offset)
    shrink = singular[:, None] / (singular[:, None] ** 2 + _PENALTIES)
    return right.T @ (shrink * projected[:, None]), center, offset
