import numpy as np
import pytest
from synthetic_store import synthetic_fid, synthetic_header

from qsd.ranker import additive
from qsd.ranker.additive import fit_additive_model, option_groups
from qsd.ranker.baselines import BASELINES
from qsd.ranker.metrics import spearman
from qsd.sampling import sample_configs


@pytest.fixture(scope="module")
def problem():
    header = synthetic_header(2)
    configs = sample_configs(header.options, len(header.layers), 260, 5)
    return header, configs, -np.log(synthetic_fid(header, configs))


def test_left_out_predictions_are_those_of_a_fit_without_the_record(problem, monkeypatch):
    header, configs, target = problem
    configs, target = configs[:30], target[:30]
    full = fit_additive_model(header, configs, target)
    variances = np.array(list(full.group_variance.values()))
    monkeypatch.setattr(additive, "_most_likely", lambda *_: (variances, full.noise_variance))
    for row in (0, 7, 29):
        rest = fit_additive_model(header, np.delete(configs, row, 0), np.delete(target, row))
        assert rest(configs[row : row + 1])[0] == pytest.approx(full.left_out[row], abs=0.02 * target.std())


def test_gradient_of_the_evidence(problem, monkeypatch):
    header, configs, target = problem
    kept = {}

    def check(cost, start, **settings):
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
    header, configs, target = problem
    model = fit_additive_model(header, configs[:labels], target[:labels])
    ridge = BASELINES["ridge on one-hots"](header, configs[:labels], target[:labels], configs[200:])
    ours = model(configs[200:])
    assert spearman(target[200:], ours) > spearman(target[200:], ridge) - 0.005
    assert np.abs(ours.mean() - target[200:].mean()) < target.std()


def test_groups_add_up_over_layers(problem):
    header, configs, _ = problem
    groups = option_groups(header)
    rows = groups["size"][np.arange(len(header.layers)), configs[0].astype(int)].sum()
    total = header.num_bytes[np.arange(len(header.layers)), configs[0].astype(int)].sum()
    assert rows == pytest.approx(total / header.num_weights.sum())
    assert set(groups) | {"noise"} == set(additive._EXPECTED)
