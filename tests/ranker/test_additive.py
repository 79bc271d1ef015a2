import numpy as np
import pytest
from support.synthetic_store import synthetic_fid, synthetic_header

from qsd.configs.sampling import sample_configs
from qsd.ranker import additive
from qsd.ranker.additive import fit_additive_model, option_groups
from qsd.ranker.baselines import BASELINES
from qsd.ranker.evidence import MEAN_VARIANCE
from qsd.ranker.metrics import spearman


@pytest.fixture(scope="module")
def problem():
    header = synthetic_header(2)
    configs = sample_configs(header.options, len(header.layers), 260, 5)
    target = -np.log(synthetic_fid(header, configs))
    return header, configs, (target - target.mean()) / target.std()


@pytest.mark.parametrize("labels", [25, 200])
def test_ranks_better_than_ridge(problem, labels):
    """On average: a single draw of 25 labels may favour either."""
    header, configs, target = problem
    ours, ridge = [], []
    for seed in range(4):
        inside, outside = np.split(np.random.default_rng(seed).permutation(len(configs)), [labels])
        wanted = (target[inside] - target[inside].mean()) / target[inside].std()
        guess = fit_additive_model(header, configs[inside], wanted)(configs[outside])
        rival = BASELINES["ridge on one-hots"](header, configs[inside], target[inside], configs[outside])
        ours.append(spearman(target[outside], guess))
        ridge.append(spearman(target[outside], rival))
    assert np.mean(ours) > np.mean(ridge)


def test_groups_add_up_over_layers(problem):
    header, configs, _ = problem
    groups = option_groups(header)
    rows = groups["size"][np.arange(len(header.layers)), configs[0].astype(int)].sum()
    total = header.num_bytes[np.arange(len(header.layers)), configs[0].astype(int)].sum()
    assert rows == pytest.approx(total / header.num_weights.sum())
    assert set(groups) | {"noise"} == set(additive._EXPECTED)


def test_the_model_is_its_kernel(problem):
    """A table predicts what the Gaussian process with the same variances does."""
    header, configs, target = problem
    inside, queries = configs[:40], configs[200:210]
    model = fit_additive_model(header, inside, target[:40])
    layers = np.arange(len(header.layers))
    covariance, cross = MEAN_VARIANCE + model.group_variance["noise"] * np.eye(40), MEAN_VARIANCE
    for name, values in option_groups(header).items():
        rows, asked = (values[layers, some.astype(int)].sum(axis=1) for some in (inside, queries))
        size = np.square(rows - rows.mean(axis=0)).sum() / 40
        kernels = [(some - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T / size for some in (rows, asked)]
        covariance = covariance + model.group_variance[name] * kernels[0]
        cross = cross + model.group_variance[name] * kernels[1]
    warped = np.expm1(model.power * target[:40]) / model.power
    np.testing.assert_allclose(model(queries), cross @ np.linalg.solve(covariance, warped), atol=1e-6)


def test_the_scale_on_which_damage_adds_up_is_found(problem):
    header, configs, _ = problem
    damage = 0.2 + header.relative_error[np.arange(len(header.layers)), configs.astype(int)].sum(axis=1)
    for target, sign in ((-np.log(damage - damage.min() + 0.1), -1), (-damage, 0)):
        power = fit_additive_model(header, configs, (target - target.mean()) / target.std()).power
        assert power < -0.3 if sign else abs(power) < 0.1
