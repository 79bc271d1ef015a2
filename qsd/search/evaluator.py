"""Predicted quality with a memory: every distinct config is predicted once, and all of them are kept."""

import numpy as np
from scipy.stats import norm

from qsd.search.nsga2 import keys_of
from qsd.search.posterior import Predictor, as_predictor
from qsd.support.errors import QsdError


class Evaluator:
    """Scores configs by the lower confidence bound of their posterior and remembers them.

    A search finds the places where a learned predictor errs in its favour, all the more the further it gets
    from the labeled configs. There the posterior is wide, so a bound that is exceeded with probability
    ``confidence`` takes such places back (Srinivas, Krause, Kakade and Seeger, "Gaussian process optimization
    in the bandit setting", ICML 2010). A confidence of 0.5 trusts the mean.

    Args:
        predictor: what predicts.
        confidence: 0.5 to below 1.
        batch_size: configs predicted at a time.

    Attributes:
        count: number of distinct configs predicted so far.
    """

    def __init__(self, predictor: Predictor, confidence: float = 0.7, batch_size: int = 512) -> None:
        self._predictor = as_predictor(predictor)
        self._reach = float(norm.ppf(confidence))
        self._batch_size = batch_size
        self._row_of: dict[bytes, int] = {}
        self._configs: list[np.ndarray] = []
        self._mean = np.zeros(0)
        self._std = np.zeros(0)

    @property
    def count(self) -> int:
        return len(self._row_of)

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Scores of int8 [n, L] configs, float64 [n]; only those not seen before are predicted."""
        configs = np.ascontiguousarray(configs, dtype=np.int8)
        row_of, known = self._row_of, len(self._mean)
        fresh: list[int] = []
        rows: list[int] = []
        for place, key in enumerate(keys_of(configs)):
            row = row_of.setdefault(key, known + len(fresh))
            rows.append(row)
            if row == known + len(fresh):
                fresh.append(place)
        for start in range(0, len(fresh), self._batch_size):
            self._predict(configs[fresh[start : start + self._batch_size]])
        return self._mean[rows] - self._reach * self._std[rows]

    def archive(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What was predicted: configs int8 [count, L], mean and standard deviation float64 [count]."""
        return np.concatenate(self._configs), self._mean, self._std

    def _predict(self, configs: np.ndarray) -> None:
        found = self._predictor.posterior(configs)
        mean, variance = np.asarray(found.mean, float), np.asarray(found.variance, float)
        if mean.shape != (len(configs),) or variance.shape != mean.shape:
            raise ValueError(
                f"the predictor returned shapes {mean.shape}, {variance.shape} for {len(configs)} configs"
            )
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise QsdError("ranker: predicts NaN or infinity for some configs; train it again")
        self._configs.append(configs)
        self._mean = np.concatenate([self._mean, mean])
        self._std = np.concatenate([self._std, np.sqrt(variance)])
