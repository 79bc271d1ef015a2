"""How well predictions rank records whose true target is known. Larger targets are better."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from qsd.search.posterior import Posterior

_SURE = 1 - 1e-9  # z of 1 is infinite


def spearman(target: np.ndarray, predicted: np.ndarray) -> float:
    """Spearman's rank correlation of float [n] arrays; 0 for constant predictions."""
    if np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return 0.0
    return float(stats.spearmanr(target, predicted).statistic)


def mean_correlation(correlations: Sequence[float]) -> float:
    """Mean of correlations, by Fisher's z: what is near 1 counts by how near it is.

    Fisher, "On the probable error of a coefficient of correlation" (Metron 1, 1921).
    """
    if len(correlations) == 1:
        return correlations[0]
    return float(np.tanh(np.arctanh(np.clip(correlations, -_SURE, _SURE)).mean()))


def kendall(target: np.ndarray, predicted: np.ndarray) -> float:
    """Kendall's tau-b of float [n] arrays; 0 for constant predictions."""
    if np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return 0.0
    return float(stats.kendalltau(target, predicted).statistic)


def ndcg_at_10(target: np.ndarray, predicted: np.ndarray) -> float:
    """Normalized discounted cumulative gain of the ten records that are predicted best.

    Gains are linear, 50 * clip((y - q20) / (max - q20), 0, 1) within the records given (Järvelin and
    Kekäläinen, ACM TOIS 20, 2002). Equal predictions keep the order of the records.
    """
    q20, best = np.quantile(target, 0.2), target.max()
    gains = 50 * np.clip((target - q20) / max(best - q20, 1e-300), 0, 1)
    k = min(10, len(target))
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = float(np.sort(gains)[::-1][:k] @ discount)
    return float(gains[_best_first(predicted)[:k]] @ discount) / ideal if ideal else 0.0


def top10_regret(target: np.ndarray, predicted: np.ndarray) -> float:
    """Mean true target of the ten best records minus that of the ten records predicted best; 0 is perfect."""
    return float(np.sort(target)[::-1][:10].mean() - target[_best_first(predicted)[:10]].mean())


def best_of_10_regret(target: np.ndarray, predicted: np.ndarray) -> float:
    """Best true target minus the best true target among the ten records predicted best; 0 is perfect.

    What is lost if the ten favourites are measured and the best of them is taken. Among a hundred records
    that is often nothing, whoever predicts.
    """
    return float(target.max() - target[_best_first(predicted)[:10]].max())


def _best_first(predicted: np.ndarray) -> np.ndarray:
    return np.argsort(-predicted, kind="stable")


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": spearman,
    "kendall": kendall,
    "ndcg@10": ndcg_at_10,
    "top10_regret": top10_regret,
    "best_of_10_regret": best_of_10_regret,
}
LARGER_IS_BETTER = {name: "regret" not in name for name in METRICS}


def evaluate(
    target: np.ndarray, predicted: np.ndarray, num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """All metrics, with 95 % percentile bootstrap intervals over the records.

    Args:
        target: float [n], true values, or [Z, n] of several measurements over which metrics are averaged.
        predicted: float [n], or [Z, n] of several predictors over which metrics are averaged.
        num_bootstrap: resamples; the same for every predictor, given the seed.
        seed: of the resampling.

    Returns:
        Metric name -> {"value", "low", "high"}.
    """
    rng = np.random.default_rng(seed)
    count = int(target.shape[-1])
    samples = [rng.integers(0, count, size=count) for _ in range(num_bootstrap)]
    pairs = list(zip(*np.broadcast_arrays(np.atleast_2d(target), np.atleast_2d(predicted)), strict=True))
    results = {}
    for name, metric in METRICS.items():

        def mean(rows: np.ndarray, metric: Callable[[np.ndarray, np.ndarray], float] = metric) -> float:
            return float(np.mean([metric(truth[rows], guess[rows]) for truth, guess in pairs]))

        resampled = [mean(rows) for rows in samples]
        low, high = np.quantile(resampled, [0.025, 0.975]) if resampled else (np.nan, np.nan)
        results[name] = {"value": mean(np.arange(0, count)), "low": float(low), "high": float(high)}
    return results


CALIBRATION = ("spearman", "coverage_68", "coverage_90", "nll", "miscalibration_area")
"""Columns of :func:`calibration`."""
_LEVELS = np.linspace(0.01, 0.99, 99)


def calibration(target: np.ndarray, posterior: Posterior) -> dict[str, float]:
    """Whether a posterior is as wrong as it says, on records that it was not fitted to.

    Args:
        target: float [n], true values.
        posterior: of the same n records.

    Returns:
        ``spearman`` of the mean; ``coverage_68`` and ``coverage_90``, shares of records in the central
        intervals of one standard deviation and of 90 %; ``nll``, mean negative log likelihood in nats, in the
        unit of the target; ``miscalibration_area``, mean absolute difference between the probability of a
        quantile and the share of records below it, 0 perfect, 0.5 worst (Kuleshov, Fenner and Ermon,
        "Accurate uncertainties for deep learning using calibrated regression", ICML 2018).
    """
    below = posterior.cdf(target)
    inside = np.abs(below - 0.5) * 2  # the confidence of the central interval that just holds the record
    return {
        "spearman": spearman(target, posterior.mean),
        "coverage_68": float((inside <= 0.6827).mean()),
        "coverage_90": float((inside <= 0.9).mean()),
        "nll": float(-posterior.log_density(target).mean()),
        "miscalibration_area": float(np.abs((below[:, None] <= _LEVELS).mean(axis=0) - _LEVELS).mean()),
    }
