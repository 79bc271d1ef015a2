import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import ndcg_score

from qsd.ranker.metrics import (
    best_of_10_regret,
    evaluate,
    kendall,
    mean_correlation,
    ndcg_at_10,
    spearman,
    top10_regret,
)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    target = rng.normal(size=60)
    return target, target + rng.normal(size=60)


def test_correlations(pair):
    assert spearman(*pair) == pytest.approx(np.corrcoef(*map(stats.rankdata, pair))[0, 1])
    assert kendall(*pair) == pytest.approx(stats.kendalltau(*pair).statistic)


def test_mean_of_correlations():
    assert mean_correlation([0.9]) == 0.9
    # by hand: z = log((1 + r) / (1 - r)) / 2, so log 19 / 2 and log 199 / 2
    z = (np.log(19) + np.log(199)) / 4
    assert mean_correlation([0.9, 0.99]) == pytest.approx((np.exp(2 * z) - 1) / (np.exp(2 * z) + 1))
    assert mean_correlation([-0.5, 0.5]) == pytest.approx(0)
    assert 0.9 < mean_correlation([0.9, 1.0]) < 1


def test_constant_predictions_rank_nothing(pair):
    assert spearman(pair[0], np.zeros(60)) == 0
    assert kendall(pair[0], np.zeros(60)) == 0


def test_ndcg_agrees_with_sklearn(pair):
    target, predicted = pair
    q20 = np.quantile(target, 0.2)
    gains = 50 * np.clip((target - q20) / (target.max() - q20), 0, 1)
    assert ndcg_at_10(target, predicted) == pytest.approx(ndcg_score(gains[None], predicted[None], k=10))


def test_regret_by_hand():
    target = np.arange(20.0)
    predicted = np.where(target >= 17, -1.0, target)  # the three best are predicted worst
    assert best_of_10_regret(target, predicted) == 3  # 16 instead of 19
    assert top10_regret(target, predicted) == 3  # 7 to 16 instead of 10 to 19
    assert top10_regret(target, target) == best_of_10_regret(target, target) == 0


def test_regret_of_few_records():
    target = np.array([1.0, 3.0])
    assert top10_regret(target, -target) == best_of_10_regret(target, -target) == 0


def test_perfect_and_intervals(pair):
    target, predicted = pair
    perfect = evaluate(target, target, 50)
    assert perfect["spearman"]["value"] == pytest.approx(1)
    assert perfect["ndcg@10"]["value"] == pytest.approx(1)
    noisy = evaluate(target, predicted, 300)
    for entry in noisy.values():
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert noisy == evaluate(target, predicted, 300)
