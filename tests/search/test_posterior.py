"""Posteriors against SciPy's distributions."""

import numpy as np
import pytest
from scipy import stats

from qsd.search import Posterior
from qsd.search.posterior import as_predictor


def test_a_normal_posterior() -> None:
    found = Posterior(np.array([1.0, -2.0]), np.array([0.25, 4.0]))
    truth = stats.norm(found.mean, [0.5, 2.0])
    assert found.std.tolist() == [0.5, 2.0]
    for p in (0.05, 0.5, 0.9):
        assert found.quantile(p) == pytest.approx(truth.ppf(p))
    assert found.cdf(0.5) == pytest.approx(truth.cdf(0.5))
    assert found.log_density(np.array([0.1, 0.2])) == pytest.approx(truth.logpdf([0.1, 0.2]))
    np.testing.assert_allclose(found.interval(0.8), truth.interval(0.8))


def test_a_posterior_of_a_logarithm() -> None:
    location, scale = np.array([0.3, -1.0]), np.array([0.2, 1.1])
    found = Posterior.of_logarithm(location, scale**2)
    truth = stats.lognorm(s=scale, scale=np.exp(location))
    assert found.mean == pytest.approx(truth.mean())
    assert found.variance == pytest.approx(truth.var())
    for p in (0.05, 0.5, 0.9):
        assert found.quantile(p) == pytest.approx(truth.ppf(p))
    assert found.cdf(np.array([0.7, 2.0])) == pytest.approx(truth.cdf([0.7, 2.0]))
    assert found.log_density(np.array([0.1, 0.2])) == pytest.approx(truth.logpdf([0.1, 0.2]))
    assert (found.cdf(-1.0) == 0).all()


def test_a_function_is_a_predictor_that_is_sure() -> None:
    found = as_predictor(lambda configs: configs.sum(axis=1)).posterior(np.ones((2, 3), np.int8))
    assert (found.mean.tolist(), found.variance.tolist()) == ([3, 3], [0, 0])
