import numpy as np
import pytest
import torch
from synthetic_store import synthetic_fid, synthetic_header

from qsd.ranker import evidence
from qsd.ranker.additive import fit_additive_model
from qsd.ranker.evidence import MEAN_VARIANCE
from qsd.ranker.interactions import fit_interaction_model, option_distances, similarity
from qsd.ranker.metrics import spearman
from qsd.sampling import sample_configs


@pytest.fixture(scope="module")
def problem():
    header = synthetic_header(2)
    configs = sample_configs(header.options, len(header.layers), 320, 5)
    target = -np.log(synthetic_fid(header, configs))
    return header, configs, (target - target.mean()) / target.std()


def test_distances_of_options():
    error = np.array([[0.3, 0.4, 0.0]])
    raw = np.array([[0, 0.25, 0.09], [0.25, 0, 0.16], [0.09, 0.16, 0]])
    np.testing.assert_allclose(option_distances(error)[0], raw * 3 / 0.5)
    assert np.isfinite(option_distances(np.zeros((2, 3)))).all()


def test_similarity_by_hand(problem):
    header, configs, _ = problem
    distance = option_distances(header.relative_error)
    alike = similarity(*map(torch.from_numpy, (configs[:5], configs[:4], distance))).numpy()
    for row in range(5):
        for column in range(4):
            pairs = zip(distance, configs[row], configs[column], strict=True)
            total = sum(table[ours, theirs] for table, ours, theirs in pairs)
            assert alike[row, column] == pytest.approx(np.exp(-total))
    np.testing.assert_allclose(np.diag(alike[:4]), 1)
    assert np.linalg.eigvalsh(alike[:4]).min() > 0


def test_gradient_of_the_evidence(problem, monkeypatch):
    header, configs, target = problem
    additive = fit_additive_model(header, configs[:25], target[:25])
    kept = {}

    def check(cost, start, **settings):
        start = np.append(start[:-1], 0.3)  # a power that bends
        _, slope = cost(start)
        for place in range(len(start)):
            step = np.eye(len(start))[place] * 1e-5
            kept[place] = (cost(start + step)[0] - cost(start - step)[0]) / 2e-5, slope[place]
        return type("Found", (), {"x": start})

    monkeypatch.setattr(evidence, "minimize", check)
    fit_interaction_model(header, configs[:25], target[:25], additive)
    assert len(kept) == 4 + len(header.layers) + 1
    for numeric, analytic in kept.values():
        assert analytic == pytest.approx(numeric, rel=1e-3, abs=1e-5)


def test_left_out_predictions_are_those_of_a_fit_without_the_record(problem, monkeypatch):
    header, configs, target = problem
    kept = []

    def fit(configs, target, fixed=None):
        """Once with the hyper-parameters found, then with these."""
        found = evidence.minimize if fixed is None else lambda *_, **__: type("Found", (), {"x": fixed})
        with monkeypatch.context() as patch:
            patch.setattr(evidence, "minimize", lambda *a, **k: kept.append(found(*a, **k)) or kept[-1])
            return fit_interaction_model(header, configs, target, additive)

    additive = fit_additive_model(header, configs[:30], target[:30])
    full = fit(configs[:30], target[:30])
    hyper_parameters = kept[0].x
    for row in (0, 7, 29):
        rest = fit(np.delete(configs[:30], row, 0), np.delete(target[:30], row), hyper_parameters)
        # the trend is scaled on one record less
        assert rest(configs[row : row + 1])[0] == pytest.approx(full.left_out[row], abs=0.02)


def test_the_model_is_its_kernel(problem, monkeypatch):
    """Predictions are those of the textbook formula with the hyper-parameters found."""
    header, configs, target = problem
    inside, queries = configs[:40], configs[200:210]
    kept = []
    real = evidence.minimize
    additive = fit_additive_model(header, inside, target[:40])
    monkeypatch.setattr(evidence, "minimize", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1])
    model = fit_interaction_model(header, inside, target[:40], additive)
    error, size, variance, noise = np.exp(kept[0].x[:4])
    layers = np.arange(len(header.layers))
    covariance, cross = MEAN_VARIANCE + noise * np.eye(40), MEAN_VARIANCE
    for part, values in ((error, header.relative_error), (size, header.num_bytes)):
        rows, asked = (values[layers, some.astype(int)].sum(axis=1) for some in (inside, queries))
        centred, asked = (rows - rows.mean()) / rows.std(), (asked - rows.mean()) / rows.std()
        covariance = covariance + part * np.outer(centred, centred)
        cross = cross + part * np.outer(asked, centred)
    distance = option_distances(header.relative_error) * np.exp(kept[0].x[4:-1])[:, None, None]
    for one, other in ((inside, inside), (queries, inside)):
        alike = variance * similarity(*map(torch.from_numpy, (one, other, distance))).numpy()
        if one is inside:
            covariance = covariance + alike
        else:
            cross = cross + alike
    bent = np.expm1(model.power * target[:40]) / model.power
    np.testing.assert_allclose(model(queries), cross @ np.linalg.solve(covariance, bent), atol=1e-6)


@pytest.mark.parametrize("labels", [30, 200])
def test_learns_errors_that_meet(problem, labels):
    """Errors are vectors, and damage is the squared length of their sum."""
    header, configs, _ = problem
    gains = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(*header.relative_error.shape, 3)) * header.relative_error[..., None]
        vectors *= rng.lognormal(0, 1, size=(len(vectors), 1, 1))
        length = np.square(vectors[np.arange(len(vectors)), configs.astype(int)].sum(axis=1)).sum(axis=1)
        wanted = -np.log(length + length.mean())
        wanted = (wanted - wanted.mean()) / wanted.std()
        additive = fit_additive_model(header, configs[:labels], wanted[:labels])
        model = fit_interaction_model(header, configs[:labels], wanted[:labels], additive)
        gains.append(
            spearman(wanted[220:], model(configs[220:])) - spearman(wanted[220:], additive(configs[220:]))
        )
    assert np.mean(gains) > (0.05 if labels > 100 else 0)
