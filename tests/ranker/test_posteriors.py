"""The posterior of the process against a direct computation, and whether it is calibrated."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.synthetic_store import synthetic_header, synthetic_responses, synthetic_store

from qsd.configs.sampling import sample_configs
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.metrics import calibration
from qsd.ranker.posteriors import TARGET, coverage, fit_posteriors
from qsd.ranker.predictors import calibration_factor
from qsd.ranker.process import Kernel, ResponseProcess, stacked
from qsd.ranker.responses import OFFSET, ResponseSettings, fit_response_model
from qsd.ranker.scale import Scale
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.ranker.warping import warp
from qsd.search import Posterior


@pytest.fixture(params=[0.0, 0.3], ids=["plain", "quadratic"])
def fitted(request):
    header = synthetic_header(2)
    responses = synthetic_responses(header)
    configs = sample_configs(header.options, len(header.layers), 40, 0)
    target = np.random.default_rng(0).normal(size=40)
    model = fit_response_model(responses, configs, target, ResponseSettings(quadratic=request.param))
    return header, responses, configs, model


def test_its_mean_is_that_of_the_fitted_model(fitted):
    header, responses, configs, model = fitted
    warped = np.random.default_rng(1).normal(size=len(configs))
    process = ResponseProcess(stacked(responses), configs, warped, Kernel.fitted(model))
    queries = sample_configs(header.options, len(header.layers), 9, 5)
    kernel = process._covariance(process._known, process._known) + model.noise * np.eye(len(configs))
    changes = torch.from_numpy(
        responses.spaces["latents"].astype(float)
    )  # touches no private cache of queries
    assert changes.shape[0] == len(header.layers)
    both = np.concatenate([configs, queries])
    joint = ResponseProcess(stacked(responses), both, np.zeros(len(both)), Kernel.fitted(model))
    prior = joint._covariance(joint._known, joint._known)
    cross, own = prior[len(configs) :, : len(configs)], np.diag(prior)[len(configs) :]
    mean, variance = process(queries)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(kernel, warped), atol=1e-6)
    expected = own - np.einsum("mn,nm->m", cross, np.linalg.solve(kernel, cross.T)) + model.noise
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


def test_leaving_one_out_is_fitting_without_it(fitted):
    _, responses, configs, model = fitted
    warped = np.random.default_rng(1).normal(size=len(configs))
    whole = ResponseProcess(stacked(responses), configs, warped, Kernel.fitted(model))
    mean, variance = whole.left_out(warped)
    rest = np.arange(len(configs)) != 7
    process = ResponseProcess(stacked(responses), configs[rest], warped[rest], Kernel.fitted(model))
    alone = process(configs[7:8])
    assert (mean[7], variance[7]) == pytest.approx((alone[0][0], alone[1][0]), rel=1e-5)


def test_the_mean_of_a_ranker_of_one_process_is_the_models(fitted):
    _, responses, configs, _ = fitted
    target = np.random.default_rng(2).normal(size=len(configs))
    target = (target - target.mean()) / target.std()
    model = fit_response_model(responses, configs, target)
    scale = dataclasses.replace(Scale.of(target, log=False), power=model.power)
    process = ResponseProcess(stacked(responses), configs, scale.warped(target), Kernel.fitted(model))
    np.testing.assert_allclose(process(configs)[0], model(configs), atol=1e-5)


def test_labels_on_fewer_images_weigh_less(fitted):
    """Noise in inverse proportion to the images, and a constant of their own for each number of images."""
    header, responses, configs, model = fitted
    warped = np.random.default_rng(1).normal(size=len(configs))
    images = np.where(np.arange(len(configs)) % 3 == 0, 400, 50)
    process = ResponseProcess(stacked(responses), configs, warped, Kernel.fitted(model), images)
    queries = sample_configs(header.options, len(header.layers), 9, 5)
    both = np.concatenate([configs, queries])
    joint = ResponseProcess(stacked(responses), both, np.zeros(len(both)), Kernel.fitted(model))
    counts = np.append(images, np.full(len(queries), 400))
    prior = joint._covariance(joint._known, joint._known) + OFFSET * (counts[:, None] == counts)
    known = slice(None, len(configs))
    kernel = prior[known, known] + model.noise * np.diag(400 / images)
    cross = prior[len(configs) :, known]
    mean, variance = process(queries)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(kernel, warped), atol=1e-6)
    expected = np.diag(prior)[len(configs) :] - np.einsum("mn,nm->m", cross, np.linalg.solve(kernel, cross.T))
    np.testing.assert_allclose(variance, expected + model.noise, rtol=1e-5)
    fitted_to_both = fit_response_model(responses, configs, warped, num_images=images)
    bent = warp(torch.from_numpy(warped), fitted_to_both.power).numpy()
    again = ResponseProcess(stacked(responses), configs, bent, Kernel.fitted(fitted_to_both), images)
    np.testing.assert_allclose(again(queries)[0], fitted_to_both(queries), atol=1e-5)


def test_many_cheap_labels_help(tmp_path):
    """20 good labels and 150 that are noisy and too high: better than the good ones alone, or all as one."""
    store = synthetic_store(tmp_path / "a.h5", 400, 2, probed=True, noise=0.02)
    data = prepare(store, Target("-log(fid)"))
    rng = np.random.default_rng(0)
    known = data.known_rows().numpy()
    images = np.full(len(data.configs), 400)
    images[known[20:170]] = 16
    targets = data.targets.clone()
    cheap = images == 16
    targets[cheap, 0] += torch.from_numpy(rng.normal(-1.0, 0.1, cheap.sum())).float()
    fold = data.fold.clone()
    fold[known[170:]] = -2

    def test_spearman(**changes):
        some = dataclasses.replace(data, targets=targets, fold=fold, predicted_labels=(), **changes)
        rows = (fold == -1).numpy()
        found = fit_posteriors(Ensemble(), some)[TARGET].posterior(data.configs.numpy()[rows].astype(np.int8))
        return spearmanr(found.mean, data.targets[rows, 0]).statistic

    good = fold.clone()
    good[known[20:]] = -2
    alone = dataclasses.replace(data, fold=good, predicted_labels=())
    rows = (fold == -1).numpy()
    few = fit_posteriors(Ensemble(), alone)[TARGET].posterior(data.configs.numpy()[rows].astype(np.int8))
    weighed = test_spearman(num_images=images)
    assert weighed > spearmanr(few.mean, data.targets[rows, 0]).statistic
    assert weighed > test_spearman()


@pytest.mark.parametrize("probed", [True, False])
def test_ninety_percent_intervals_hold_ninety_percent(tmp_path, probed):
    store = synthetic_store(tmp_path / "a.h5", 700, 2, probed=probed, noise=0.1)
    data = prepare(store, Target("-log(fid)"), folds=2)
    data = dataclasses.replace(data, predicted_labels=("fid",))
    rows = coverage(fit_posteriors(Ensemble(), data), data)
    assert set(rows) == {TARGET, "fid"}
    for row in rows.values():
        assert 0.82 <= row["coverage_90"] <= 0.97
        assert row["miscalibration_area"] < 0.08


def test_a_label_that_falls_below_zero_in_one_test_record_has_finite_measures(tmp_path):
    store = synthetic_store(tmp_path / "a.h5", 120, 2, probed=True, noise=0.1)
    data = prepare(store, Target("-log(fid)"), folds=2)
    labels = data.labels.copy()
    labels[data.test_rows()[0], data.header.label_names.index("fid")] = -0.01
    data = dataclasses.replace(data, labels=labels, predicted_labels=("fid",))
    found = fit_posteriors(Ensemble(), data)
    configs = data.configs[:3].numpy().astype(np.int16)
    assert found["fid"].posterior(configs).law == "normal"
    assert all(np.isfinite(value) for value in coverage(found, data)["fid"].values())


def test_nothing_below_zero_is_log_normal():
    density = Posterior.of_logarithm(np.zeros(3), np.ones(3)).log_density(np.array([-1.0, 0.0, 1.0]))
    assert density.tolist() == pytest.approx([-np.inf, -np.inf, -0.5 * np.log(2 * np.pi)])


def test_measures_of_calibration_by_hand():
    rng = np.random.default_rng(0)
    target = rng.normal(2.0, 3.0, 20_000)
    right = Posterior(np.full(20_000, 2.0), np.full(20_000, 9.0))
    row = calibration(target, right)
    assert row["coverage_68"] == pytest.approx(0.6827, abs=0.01)
    assert row["coverage_90"] == pytest.approx(0.9, abs=0.01)
    assert row["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 9), abs=0.01)
    assert row["miscalibration_area"] < 0.01
    sure = calibration(target, Posterior(np.full(20_000, 2.0), np.full(20_000, 9e-4)))
    assert sure["coverage_90"] < 0.03
    assert sure["miscalibration_area"] == pytest.approx(0.25, abs=0.01)
    assert sure["nll"] > row["nll"]


def test_a_calibration_factor_makes_the_interval_hold_its_share():
    rng = np.random.default_rng(0)
    deviation = rng.normal(0, 3.0, 50_000)
    assert calibration_factor(deviation, np.ones(50_000)) == pytest.approx(9.0, rel=0.03)


def test_a_scale_and_its_inverse():
    values = np.random.default_rng(0).lognormal(size=50)
    for log in (True, False):
        scale = dataclasses.replace(Scale.of(values, log=log), power=0.2 if log else -0.3)
        found = scale.posterior(scale.warped(values), np.full(50, 1e-12))
        np.testing.assert_allclose(found.mean, values, rtol=1e-6)
        assert Scale(**scale.to_json()) == scale
