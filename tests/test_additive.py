import numpy as np
import pytest
import torch
from synthetic_store import synthetic_fid, synthetic_header

from qsd.ranker import additive
from qsd.ranker.additive import fit_additive_model, option_groups
from qsd.ranker.baselines import BASELINES
from qsd.ranker.link import bend, unbend
from qsd.ranker.metrics import spearman
from qsd.sampling import sample_configs


@pytest.fixture(scope="module")
def problem():
    header = synthetic_header(2)
    configs = sample_configs(header.options, len(header.layers), 260, 5)
    target = -np.log(synthetic_fid(header, configs))
    return header, configs, (target - target.mean()) / target.std()


def test_left_out_predictions_are_those_of_a_fit_without_the_record(problem, monkeypatch):
    header, configs, target = problem
    configs, target = configs[:30], target[:30]
    full = fit_additive_model(header, configs, target)
    variances = np.array(list(full.group_variance.values()))
    monkeypatch.setattr(additive, "_most_likely", lambda *_: (variances, full.noise_variance, full.power))
    for row in (0, 7, 29):
        rest = fit_additive_model(header, np.delete(configs, row, 0), np.delete(target, row))
        assert rest(configs[row : row + 1])[0] == pytest.approx(full.left_out[row], abs=0.02 * target.std())


def test_gradient_of_the_evidence(problem, monkeypatch):
    header, configs, target = problem
    kept = {}

    def check(cost, start, **settings):
        start = np.append(start[:-1], 0.3)  # a power that bends
        _, slope = cost(start)
        for place in range(len(start)):
            step = np.eye(len(start))[place] * 1e-5
            kept[place] = (cost(start + step)[0] - cost(start - step)[0]) / 2e-5, slope[place]
        return type("Found", (), {"x": start})

    monkeypatch.setattr(additive, "minimize", check)
    fit_additive_model(header, configs[:25], target[:25])
    for numeric, analytic in kept.values():
        assert analytic == pytest.approx(numeric, rel=1e-3, abs=1e-5)


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
    assert set(groups) | {"outer pairs", "noise"} == set(additive._EXPECTED)


def test_the_model_is_its_kernel(problem):
    """Tables and squares predict what the Gaussian process with the same variances does."""
    header, configs, target = problem
    inside, queries = configs[:40], configs[200:210]
    model = fit_additive_model(header, inside, target[:40])
    layers = np.arange(len(header.layers))
    covariance, cross = 100.0 + model.noise_variance * np.eye(40), 100.0
    for name, values in option_groups(header).items():
        rows, asked = (values[layers, some.astype(int)].sum(axis=1) for some in (inside, queries))
        size = np.square(rows - rows.mean(axis=0)).sum() / 40
        kernels = [(some - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T / size for some in (rows, asked)]
        covariance = covariance + model.group_variance[name] * kernels[0]
        cross = cross + model.group_variance[name] * kernels[1]
        if name == "outer role option":
            covariance = covariance + model.group_variance["outer pairs"] * kernels[0] ** 2
            cross = cross + model.group_variance["outer pairs"] * kernels[1] ** 2
    bent = np.expm1(model.power * target[:40]) / model.power
    np.testing.assert_allclose(model(queries), cross @ np.linalg.solve(covariance, bent), atol=1e-6)


def test_the_scale_on_which_damage_adds_up_is_found(problem):
    header, configs, _ = problem
    damage = 0.2 + header.relative_error[np.arange(len(header.layers)), configs.astype(int)].sum(axis=1)
    for target, sign in ((-np.log(damage - damage.min() + 0.1), -1), (-damage, 0)):
        power = fit_additive_model(header, configs, (target - target.mean()) / target.std()).power
        assert power < -0.3 if sign else abs(power) < 0.1


def test_link_and_its_inverse():
    values = torch.linspace(-3, 3, 61, dtype=torch.double)
    for power in (-0.8, -0.2, 0.0, 0.5):
        torch.testing.assert_close(unbend(bend(values, power), power, -3, 3), values)
        beyond = unbend(torch.linspace(-20, 20, 400, dtype=torch.double), power, -1.0, 2.0)
        assert beyond.isfinite().all()
        assert (beyond.diff() > 0).all()  # the order survives where the transform has no inverse
