import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from support.synthetic_store import synthetic_fid, synthetic_header, synthetic_responses

from qsd.configs.sampling import sample_configs
from qsd.ranker.baselines import BASELINES, Ridge, average_bits, error_rows, one_hot, probed_length
from qsd.ranker.metrics import spearman


def test_ridge_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(40, 60)), rng.normal(size=(7, 60))
    target = rows[:, 0] + rng.normal(size=40)
    ours = Ridge.fit(rows, target)
    theirs = SklearnRidge(alpha=ours.penalty).fit(rows, target)
    np.testing.assert_allclose(ours(queries), theirs.predict(queries), atol=1e-8)


def test_one_hot():
    np.testing.assert_array_equal(one_hot(np.array([[1, 0]], np.int8), 3), [[0, 1, 0, 1, 0, 0]])


@pytest.fixture(scope="module")
def problem():
    header = synthetic_header(2)
    configs = sample_configs(header.options, len(header.layers), 200, 5)
    return header, configs, -np.log(synthetic_fid(header, configs))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_ranks_better_than_chance(problem, name):
    header, configs, target = problem
    predicted = BASELINES[name](header, configs[:150], target[:150], configs[150:])
    assert predicted.shape == (50,)
    assert spearman(target[150:], predicted) > 0.3


def test_sum_of_errors_and_bits(problem):
    header, configs, target = problem
    config = configs[0]
    error = sum(header.relative_error[layer, option] for layer, option in enumerate(config))
    assert BASELINES["sum of errors"](header, configs, target, config[None])[0] == pytest.approx(-error)
    size = sum(header.num_bytes[layer, option] for layer, option in enumerate(config))
    assert average_bits(header, config[None])[0] == pytest.approx(8 * size / header.num_weights.sum())


def test_probed_length(problem):
    header, configs, target = problem
    responses = synthetic_responses(header)
    lengths = probed_length(responses, configs)
    assert spearman(target, lengths) > 0.3
    latents = {"latents": responses.spaces["latents"]}
    only = probed_length(dataclasses.replace(responses, spaces=latents), configs)
    for space, found in (("features", lengths), ("latents", only)):
        values = responses.spaces[space]
        total = sum(values[layer, option] for layer, option in enumerate(configs[3]))
        assert found[3] == pytest.approx(-(total @ total))


def test_error_rows_are_finite_for_exact_options(problem):
    header, configs, _ = problem
    exact = type(header)(**{**vars(header), "relative_error": np.zeros_like(header.relative_error)})
    assert np.isfinite(error_rows(exact, configs)).all()
