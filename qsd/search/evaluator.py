"""Predicted quality with a memory: every distinct config is predicted once, and all of them are kept."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from qsd.support.errors import QsdError


@runtime_checkable
class SpreadPredictor(Protocol):
    """A predictor that also says how far its members disagree."""

    def predict_with_spread(self, configs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the ensemble, each float [n], of int8 [n, L] configs."""


Predictor = SpreadPredictor | Callable[[np.ndarray], np.ndarray]
"""Either a function int8 [n, L] -> float [n] (larger is better), or an object with `predict_with_spread`."""


class Evaluator:
    """Scores configs by `mean - kappa * spread` and remembers them.

    A search finds the places where a learned predictor errs in its favour, all the more the further it gets
    from the labeled configs. There the members of an ensemble disagree, so the pessimistic score takes such
    places back. kappa 0 trusts the mean.

    Attributes:
        count: Number of distinct configs predicted so far.
    """

    def __init__(self, predictor: Predictor, kappa: float = 0.5, batch_size: int = 512) -> None:
        self._predictor = predictor
        self._kappa = kappa
        self._batch_size = batch_size
        self._row_of: dict[bytes, int] = {}
        self._configs: list[np.ndarray] = []
        self._mean: list[float] = []
        self._spread: list[float] = []
        self._knows_spread = isinstance(predictor, SpreadPredictor)

    @property
    def count(self) -> int:
        return len(self._configs)

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Scores of int8 [n, L] configs, float64 [n]; only those not seen before are predicted."""
        configs = np.ascontiguousarray(configs, dtype=np.int8)
        keys = [config.tobytes() for config in configs]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._row_of}
        unseen = configs[list(fresh.values())]
        for start in range(0, len(unseen), self._batch_size):
            self._predict(unseen[start : start + self._batch_size])
        rows = [self._row_of[key] for key in keys]
        mean, spread = np.array(self._mean), np.array(self._spread)
        return mean[rows] - self._kappa * spread[rows]

    def archive(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What was predicted: configs int8 [count, L], mean and spread (or None) float64 [count]."""
        spread = np.array(self._spread) if self._knows_spread else None
        return np.stack(self._configs), np.array(self._mean), spread

    def _predict(self, configs: np.ndarray) -> None:
        if isinstance(self._predictor, SpreadPredictor):
            mean, spread = self._predictor.predict_with_spread(configs)
        else:
            mean = self._predictor(configs)
            spread = np.zeros(len(configs))
        mean, spread = np.asarray(mean, dtype=np.float64), np.asarray(spread, dtype=np.float64)
        if mean.shape != (len(configs),) or spread.shape != mean.shape:
            raise ValueError(
                f"the predictor returned shapes {mean.shape}, {spread.shape} for {len(configs)} configs"
            )
        if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
            raise QsdError("ranker: predicts NaN or infinity for some configs; train it again")
        for config, config_mean, config_spread in zip(configs, mean, spread, strict=True):
            self._row_of[config.tobytes()] = len(self._configs)
            self._configs.append(config.copy())
            self._mean.append(float(config_mean))
            self._spread.append(float(config_spread))
