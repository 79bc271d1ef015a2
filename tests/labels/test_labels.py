"""Labels on the shipped miniature, with few images: determinism, pairing, resuming, refusing."""

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.options import SIX

from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.configs.sampling import sample_configs
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.evaluator import LABELS, MAX_PSNR
from qsd.evaluation.extractors import load_features
from qsd.labels import Job, Measurer, jobs_of_stream, label, open_or_create, store_conditions, verify
from qsd.store import SPLITS, Store, split_of_index
from qsd.support.errors import QsdError

SETTINGS = EvaluationSettings(
    prompts="datasets/digits/prompts.txt",
    classes="datasets/digits/classes.txt",
    reference="datasets/digits/images.safetensors",
    features="checkpoints/digits-classifier",
    clip="checkpoints/digits-clip",
    num_images=24,
    steps=4,
    guidance=1.0,
    batch_size=8,
    kid_subset_size=10,
)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(denoiser_of(load_pipeline("checkpoints/digits-pixart-alpha")), SIX)


@pytest.fixture(scope="module")
def measurer(bank: Bank) -> Measurer:
    return Measurer(load_pipeline("checkpoints/digits-pixart-alpha"), bank, SETTINGS)


def test_full_precision_equals_itself(measurer: Measurer, bank: Bank) -> None:
    full = np.full(len(bank.layers), FULL_PRECISION, np.int8)
    labels = measurer.measure(full, 0).labels
    assert labels["psnr"] == MAX_PSNR
    assert labels["latent_mse"] == 0.0
    assert labels == measurer.full_precision(0).labels


def test_measuring_is_deterministic_and_restores(measurer: Measurer, bank: Bank) -> None:
    config = bank.uniform_config("uaq-3")
    first, second = measurer.measure(config, 0), measurer.measure(config, 0)
    assert first.labels == second.labels
    assert torch.equal(first.images, second.images)
    assert first.labels["latent_mse"] > 0
    assert first.labels["psnr"] < MAX_PSNR
    again = Measurer(load_pipeline("checkpoints/digits-pixart-alpha"), bank, SETTINGS).full_precision(0)
    assert torch.equal(again.images, measurer.full_precision(0).images)


def test_prompts_are_encoded_once_for_clip(
    measurer: Measurer, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bank.uniform_config("uaq-3")
    known = measurer.measure(config, 0).labels
    clip: Any = measurer.evaluator.clip
    encode, calls = clip.model.model.get_text_features, []

    def counting(*args: Any) -> Any:
        calls.append(args)
        return encode(*args)

    monkeypatch.setattr(clip.model.model, "get_text_features", counting)
    assert measurer.measure(config, 0).labels == known and not calls
    clip.model._texts.clear()
    assert measurer.measure(config, 0).labels == known and len(calls) == 3


def test_another_seed_draws_other_images(measurer: Measurer) -> None:
    assert not torch.equal(measurer.full_precision(0).latents, measurer.full_precision(1).latents)


def test_latent_mse_and_psnr_by_definition(measurer: Measurer, bank: Bank) -> None:
    full, drawn = measurer.full_precision(0), measurer.measure(bank.uniform_config("kmeans_a-3"), 0)
    mse = ((drawn.images.double() - full.images.double()) ** 2).mean(dim=(1, 2, 3))
    psnr = (10 * torch.log10(255**2 / mse)).clamp(max=MAX_PSNR).mean()
    assert drawn.labels["psnr"] == pytest.approx(float(psnr), rel=1e-4)
    latent = ((drawn.latents.double() - full.latents.double()) ** 2).mean()
    assert drawn.labels["latent_mse"] == pytest.approx(float(latent), rel=1e-4)


def test_fid_by_definition(measurer: Measurer) -> None:
    from scipy.linalg import sqrtm

    features = load_features(SETTINGS.features)
    reference = SETTINGS.open_reference()
    real = torch.cat([features(part)[0] for part in reference.batches(100)]).double().numpy()
    fake = features(measurer.full_precision(0).images)[0].double().numpy()
    mean = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    a, b = np.cov(real.T), np.cov(fake.T)
    expected = mean + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real
    assert measurer.full_precision(0).labels["fid"] == pytest.approx(expected, rel=2e-2)


def test_labeling_resumes_and_grows(measurer: Measurer, bank: Bank, tmp_path: Path) -> None:
    def begin() -> AbstractContextManager[Store]:
        conditions = store_conditions(measurer.pipe, bank, SETTINGS, config_seed=3)
        return open_or_create(tmp_path / "s.h5", bank, SETTINGS, conditions, make_provenance=dict)

    with begin() as store:
        label(store, jobs_of_stream(store, 2, 0), measurer.run)
    with begin() as store:
        jobs = jobs_of_stream(store, 3, 0)
        assert [job.index for job in jobs] == [2]
        label(store, jobs, measurer.run)
    with begin() as store:
        assert jobs_of_stream(store, 3, 0) == []
    assert store.records.index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(store.records.config, sample_configs(bank.options, len(bank.layers), 3, 3))
    assert np.isfinite(store.records.labels).all()
    np.testing.assert_array_equal(store.total_bytes(), bank.config_bytes(store.records.config))
    repeats = jobs_of_stream(store, 2, 1, split="test")
    assert all(SPLITS[int(split_of_index(job.index))] == "test" and job.noise_seed == 1 for job in repeats)


def test_store_of_other_conditions_is_refused(measurer: Measurer, bank: Bank, tmp_path: Path) -> None:
    conditions = store_conditions(measurer.pipe, bank, SETTINGS, config_seed=0)

    def begin(bank: Bank, /, **changed: Any) -> None:
        ours = conditions | changed
        with open_or_create(tmp_path / "s.h5", bank, SETTINGS, ours, make_provenance=dict):
            pass

    begin(bank)
    with pytest.raises(QsdError, match="begun with steps 4, not 5"):
        begin(bank, steps=5)
    other = [[*row[:1], row[2], *row[2:]] for row in bank.weights]  # the second option has other codes
    with pytest.raises(QsdError, match=f"begun with bank.{bank.options[1]} .*, not .*"):
        swapped = dataclasses.replace(bank, weights=other)
        begin(swapped, bank=swapped.option_hashes())
    with pytest.raises(QsdError, match=r"s\.h5: made for .* but this denoiser is .* \(another weights\)"):
        others = dict.fromkeys(("weights_hash", "float16_hash", "bfloat16_hash"), "0" * 32)
        begin(dataclasses.replace(bank, denoiser=bank.denoiser | others))


def test_verify_averages_over_seeds(measurer: Measurer, bank: Bank) -> None:
    uniform = bank.uniform_config("uaq-4")
    rows = verify(np.stack([uniform, uniform]), [0, 1], measurer.run, num_images=24)
    single = [measurer.measure(uniform, seed).labels["fid"] for seed in (0, 1)]
    assert rows[0] == rows[1]
    assert rows[0]["fid"] == pytest.approx(np.mean(single))
    assert rows[0]["fid_std"] == pytest.approx(np.std(single, ddof=1))
    jobs = [Job(7, uniform, 0)]
    assert next(iter(measurer.run(jobs)))[0] is jobs[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 1}, "FID needs at least 2"),
        ({"num_images": 10**6}, "lower num_images or add prompts"),
        ({"prompts": "absent.txt"}, "absent.txt: no such file"),
        ({"reference": "datasets/digits/prompts.txt"}, "holds no `images`"),
        ({"features": "inception-7"}, "inception features have sizes"),
        ({"features": "datasets/digits"}, "no transformers image classifier"),
        ({"clip": "datasets/digits"}, "no CLIP model"),
        ({"kid_subset_size": 1}, "kid_subset_size is 1; give at least 2"),
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"batch_size": 0}, "batch_size is 0; give at least 1"),
        ({"guidance": float("nan")}, "guidance is nan"),
    ],
)
def test_mistakes_in_the_settings_are_named(bank: Bank, change: dict, message: str) -> None:
    pipe = load_pipeline("checkpoints/digits-pixart-alpha")
    with pytest.raises(QsdError, match=message):
        Measurer(pipe, bank, dataclasses.replace(SETTINGS, **change))


def test_no_pipeline_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(QsdError, match="cannot be opened as a diffusers pipeline"):
        load_pipeline(tmp_path)


def test_without_real_images_only_paired_labels_are_measured(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsd.evaluation.distribution.load_features", None)  # nothing may load an extractor
    paired = dataclasses.replace(SETTINGS, reference=None, clip=None, features="inception-2048")
    assert [name.name for name in LABELS if paired.yields(name.name)] == ["psnr", "latent_mse"]
    measurer = Measurer(load_pipeline("checkpoints/digits-pixart-alpha"), bank, paired)
    configs = np.stack([bank.uniform_config("uaq-3")])
    row = verify(configs, [0, 1], measurer.run, num_images=24)[0]
    assert set(row) == {"psnr", "latent_mse", "psnr_std", "num_images", "seeds"}
    assert row["psnr_std"] > 0
    with pytest.raises(QsdError, match="no real images to compare with"):
        paired.open_reference()
