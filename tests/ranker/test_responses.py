"""The Gaussian process on what options do alone: by hand, by the textbook, and what it is for."""

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_header

from qsd.configs.sampling import sample_configs
from qsd.ranker import evidence
from qsd.ranker.additive import fit_additive_model
from qsd.ranker.evidence import MEAN_VARIANCE
from qsd.ranker.metrics import spearman
from qsd.ranker.responses import ResponseSettings, fit_response_model, squared_distances, total_change
from qsd.store import Responses
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def problem():
    """Errors are vectors, and damage is the squared length of their sum in one of two spaces."""
    header = synthetic_header(2)
    configs = sample_configs(header.options, len(header.layers), 320, 5)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, *header.relative_error.shape, 5)) * header.relative_error[..., None]
    vectors *= rng.lognormal(0, 1, size=(1, len(header.layers), 1, 1))
    responses = Responses({"latents": vectors[0], "features": vectors[1]}, 4, 0)
    length = np.square(vectors[1][np.arange(len(header.layers)), configs.astype(int)].sum(axis=1)).sum(axis=1)
    target = -np.log(length + length.mean())
    return header, responses, configs, (target - target.mean()) / target.std()


def test_changes_and_distances_by_hand(problem):
    _, responses, configs, _ = problem
    spaces = np.stack(list(responses.spaces.values()))
    totals = total_change(torch.from_numpy(configs[:3]), torch.from_numpy(spaces))
    for space, values in enumerate(spaces):
        for row, config in enumerate(configs[:3]):
            by_hand = sum(values[layer, option] for layer, option in enumerate(config))
            np.testing.assert_allclose(totals[space, row], by_hand)
    distances = squared_distances(totals, totals[:, 1:])
    direct = (totals[:, :, None] - totals[:, None, 1:]).square().sum(dim=-1)
    torch.testing.assert_close(distances, direct)


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        (ResponseSettings(bands=0), 2),
        (ResponseSettings(quadratic=0.1), 2 + 4 + 2),
        (ResponseSettings({"features": 0.1}, bands=0.7, noise=0.1, deviation=0.5), 2 + 4),
    ],
)
def test_gradient_of_the_evidence(problem, monkeypatch, settings, others):
    _, responses, configs, target = problem
    kept = {}

    def check(cost, start, **settings):
        start = np.append(start[:-1], 0.3)  # a power that warps
        _, slope = cost(start)
        for place in range(len(start)):
            step = np.eye(len(start))[place] * 1e-5
            kept[place] = (cost(start + step)[0] - cost(start - step)[0]) / 2e-5, slope[place]
        return type("Found", (), {"x": start})

    monkeypatch.setattr(evidence, "minimize", check)
    fit_response_model(responses, configs[:25], target[:25], settings)
    assert len(kept) == 2 + 2 + others + 1
    for numeric, analytic in kept.values():
        assert analytic == pytest.approx(numeric, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("bands", "quadratic"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.1)])
def test_the_model_is_its_kernel(problem, monkeypatch, bands, quadratic):
    """Predictions are those of the textbook formula with the hyper-parameters found."""
    _, responses, configs, target = problem
    inside, queries = configs[:40], configs[200:210]
    kept = []
    real = evidence.minimize
    monkeypatch.setattr(evidence, "minimize", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1])
    settings = ResponseSettings(bands=bands, quadratic=quadratic)
    model = fit_response_model(responses, inside, target[:40], settings)
    count = 2 if quadratic else 0
    parts = np.split(np.exp(kept[0].x[:-1]), np.cumsum([2, count, 2, 2]))
    slopes, forms, (process, noise), scales, ratios = parts
    assert len(ratios) == (4 if bands else 0)
    covariance, cross = MEAN_VARIANCE + noise * np.eye(40), MEAN_VARIANCE
    exponent, cross_exponent = np.zeros((40, 40)), np.zeros((10, 40))
    layers = np.arange(configs.shape[1])
    of_bands = scales[:, None] * (ratios.reshape(2, 2) if bands else np.ones(2))
    forms = forms if quadratic else np.zeros(2)
    for values, slope, form, both in zip(responses.spaces.values(), slopes, forms, of_bands, strict=True):
        known, asked = (values[layers, some.astype(int)].sum(axis=1) for some in (inside, queries))
        ways, others = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (known, asked))
        covariance = covariance + form * (ways @ ways.T) ** 2
        cross = cross + form * (others @ ways.T) ** 2
        lengths, longer = np.log((known**2).sum(axis=1)), np.log((asked**2).sum(axis=1))
        mean, spread = lengths.mean(), lengths.std()
        lengths, longer = (lengths - mean) / spread, (longer - mean) / spread
        covariance = covariance + slope * np.outer(lengths, lengths)
        cross = cross + slope * np.outer(longer, lengths)
        scale = np.repeat(both, [4, 1])  # the second begins at the fifth
        unit = ((known[:, None] - known) ** 2).sum(axis=-1).mean()
        exponent += ((known[:, None] - known) ** 2) @ scale / unit
        cross_exponent += ((asked[:, None] - known) ** 2) @ scale / unit
    covariance = covariance + process * np.exp(-exponent)
    cross = cross + process * np.exp(-cross_exponent)
    warped = np.expm1(model.power * target[:40]) / model.power
    np.testing.assert_allclose(model(queries), cross @ np.linalg.solve(covariance, warped), atol=1e-6)


def test_left_out_predictions_are_those_of_a_fit_without_the_record(problem, monkeypatch):
    _, responses, configs, target = problem
    kept = []
    real = evidence.minimize
    monkeypatch.setattr(evidence, "minimize", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1])
    full = fit_response_model(responses, configs[:40], target[:40])
    monkeypatch.setattr(evidence, "minimize", lambda *_, **__: kept[0])
    for row in (0, 7, 29):
        rest = fit_response_model(responses, np.delete(configs[:40], row, 0), np.delete(target[:40], row))
        # lengths and distances are scaled on one record less
        assert rest(configs[row : row + 1])[0] == pytest.approx(full.left_out[row], abs=0.1)


@pytest.mark.parametrize("labels", [25, 200])
def test_knows_which_errors_cancel(problem, labels):
    header, responses, configs, target = problem
    additive = fit_additive_model(header, configs[:labels], target[:labels])
    model = fit_response_model(responses, configs[:labels], target[:labels])
    ours, sums = (spearman(target[220:], predict(configs[220:])) for predict in (model, additive))
    assert ours > 0.95
    assert ours > sums + 0.05


def test_options_that_do_nothing_are_no_accident(problem):
    """Layers that change nothing at all, and a space in which no option does."""
    _, responses, configs, target = problem
    latents = responses.spaces["latents"].copy()
    latents[:3] = 0
    still = {"latents": latents, "features": np.zeros_like(latents)}
    model = fit_response_model(Responses(still, 4, 0), configs[:40], target[:40])
    assert np.isfinite(model(configs)).all()


def test_bands_find_the_coordinates_that_matter(problem):
    """Only the foremost 4 of 40 coordinates do damage, which a common scale cannot say."""
    header, _, configs, _ = problem
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(*header.relative_error.shape, 40)) * header.relative_error[..., None]
    changes = vectors[np.arange(len(header.layers)), configs.astype(int)].sum(axis=1)
    target = -np.log(np.square(changes[:, :4]).sum(axis=1))
    target = (target - target.mean()) / target.std()
    responses = Responses({"latents": vectors}, 4, 0)
    ranks = []
    for bands in (0.0, 1.0):
        model = fit_response_model(responses, configs[:100], target[:100], ResponseSettings(bands=bands))
        ranks.append(spearman(target[100:], model(configs[100:])))
    assert ranks[1] > ranks[0] + 0.1


def test_a_quadratic_form_of_the_direction(problem):
    """Damage is a quadratic form that the process, with a common scale, can only learn by heart."""
    header, _, configs, _ = problem
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(*header.relative_error.shape, 4)) * header.relative_error[..., None]
    changes = vectors[np.arange(len(header.layers)), configs.astype(int)].sum(axis=1)
    target = -np.log(np.square(changes) @ np.array([1.0, 0.3, 0.1, 0.03]))
    target = (target - target.mean()) / target.std()
    responses = Responses({"latents": vectors}, 4, 0)
    ranks = []
    for quadratic in (0.0, 0.3):
        settings = ResponseSettings(bands=0, quadratic=quadratic)
        model = fit_response_model(responses, configs[:60], target[:60], settings)
        ranks.append(spearman(target[60:], model(configs[60:])))
    assert ranks[1] > 0.99
    assert ranks[1] > ranks[0] + 0.005


def test_what_is_expected_for_sure_is_not_learned(problem, monkeypatch):
    _, responses, configs, target = problem
    settings = ResponseSettings({"features": 0.5}, bands=0, quadratic=0.2, noise=0.05, deviation=1e-3)
    kept = []
    real = evidence.minimize
    monkeypatch.setattr(evidence, "minimize", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1])
    fit_response_model(responses, configs[:60], target[:60], settings)
    np.testing.assert_allclose(np.exp(kept[0].x[:-1]), [0.3, 0.15, 0.2, 0.1, 0.5, 0.05, 0.3, 0.15], rtol=1e-3)


def test_bad_settings(problem):
    _, responses, configs, target = problem
    with pytest.raises(QsdError, match="no space 'pixels': the store was probed in latents, features"):
        fit_response_model(responses, configs[:40], target[:40], ResponseSettings({"pixels": 2.0}))
    for wrong in (
        {"bands": -0.1},
        {"quadratic": -0.1},
        {"noise": 0.0},
        {"deviation": -1.0},
        {"spaces": {"latents": 0.0}},
    ):
        with pytest.raises(
            QsdError, match="bands or quadratic below 0 or another number that is not positive"
        ):
            ResponseSettings(**wrong)
