"""What options do alone, on a shipped miniature with few images: by definition, resuming, refusing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from qsd.api import build_bank, label, probe
from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.cli import main
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.extractors import load_features
from qsd.evaluation.generate import Generator
from qsd.labels.probing import Cells, Prober, _principal, _sketched, _units, resketched, summarized
from qsd.store import Responses, Store
from qsd.support.errors import QsdError

PIPELINE = "checkpoints/digits-dit"
SETTINGS = EvaluationSettings(
    prompts="datasets/digits/class_prompts.txt",
    reference="datasets/digits/images.safetensors",
    features="checkpoints/digits-classifier",
    num_images=10,
    steps=2,
    guidance=1.0,
    batch_size=4,
    kid_subset_size=5,
)
IMAGES = 6


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(load_pipeline(PIPELINE), ["kmeans_a-3"])  # few enough to be kept without loss


@pytest.fixture(scope="module")
def probed(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("probed") / "s.h5"
    probe(load_pipeline(PIPELINE), bank, path, evaluator=SETTINGS, num_images=IMAGES)
    return Store.open(path)


def test_responses_are_changes_of_latents_and_features(probed: Store, bank: Bank) -> None:
    """Every inner product of two changes is that of drawings, image by image, however they are stored."""
    pipe = load_pipeline(PIPELINE)
    generator = Generator(pipe, dataclasses.replace(SETTINGS, num_images=IMAGES))
    extract = load_features(SETTINGS.features)

    def draw() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            parts = [(latents.flatten(1), extract(images)[0]) for _, latents, images in generator.batches(0)]
        latents, features = map(torch.cat, zip(*parts, strict=True))
        return {"latents": latents.numpy() / latents.shape[1] ** 0.5, "features": features.numpy()}

    full = draw()
    layers, options = len(bank.layers), len(bank.options)
    changes: dict[str, list[np.ndarray]] = {name: [] for name in full}
    for layer in range(layers):
        for option in range(options):
            config = np.full(layers, FULL_PRECISION, np.int8)
            config[layer] = option
            with Applier(bank, denoiser_of(pipe)) as applier:
                applier.apply(config)
                drawn = draw()
            for name, values in drawn.items():
                changes[name].append(values - full[name])
    expected = {}
    for name, rows in changes.items():
        by_image = np.square(np.array(rows)).sum(axis=2).mean(axis=0)
        balanced = np.array(rows) * np.sqrt(by_image.mean() / by_image)[:, None]
        expected[name] = balanced.reshape(layers * options, -1) / IMAGES**0.5
        if name == "features":
            expected["mean_features"] = balanced.mean(axis=1)
    spaces = probed.header.responses.spaces
    assert set(spaces) == set(expected)
    for name, rows in expected.items():
        stored = spaces[name].reshape(layers * options, -1)
        gram = rows @ rows.T
        np.testing.assert_allclose(stored @ stored.T, gram, atol=2e-3 * gram.max())


def test_probing_goes_on_where_it_was(probed: Store, bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    pipe = load_pipeline(PIPELINE)

    class StopError(Exception):
        pass

    def stop(done: int, total: int, message: str) -> None:
        if done == 3:
            raise StopError

    with pytest.raises(StopError):
        probe(pipe, bank, path, evaluator=SETTINGS, num_images=IMAGES, progress=stop)
    assert len(Store.open(path).header.responses.missing()) == len(bank.layers) - 3
    calls: list[tuple[int, int]] = []
    probe(
        pipe,
        bank,
        path,
        evaluator=SETTINGS,
        num_images=IMAGES,
        progress=lambda done, total, _: calls.append((done, total)),
    )
    assert calls[-1] == (len(bank.layers) - 3, len(bank.layers) - 3)
    again = Store.open(path).header.responses
    assert not len(again.missing())
    for name, values in probed.header.responses.spaces.items():
        ours = again.spaces[name].reshape(len(bank.layers), -1)
        theirs = values.reshape(len(bank.layers), -1)
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)
    probe(load_pipeline(PIPELINE), bank, path, evaluator=SETTINGS, num_images=IMAGES, progress=stop)


def test_a_table_grows_and_only_new_options_are_probed(
    probed: Store, bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probing old and new options in two goes gives what one go gives."""
    path, file = tmp_path / "s.h5", tmp_path / "bank.safetensors"
    path.write_bytes(probed.path.read_bytes())
    bank.save(file)
    assert main(["bank", "--pipeline", PIPELINE, "--out", str(file), "--add", "[int8]"]) == 0
    wide = Bank.load(file)
    assert [*map(str, wide.options)] == ["kmeans_a-3", "int8"]
    for words, told in (
        (["--options", "paper"], "options out"),
        (["--activations", "[16, 8]"], "activations"),
    ):
        assert main(["bank", "--pipeline", PIPELINE, "--out", str(file), "--add", "[keep]", *words]) == 2
        assert f"leave --{told}" in " ".join(capsys.readouterr().err.split())
    assert Bank.load(file).options == wide.options
    for old, new in zip(bank.weights, wide.weights, strict=True):
        for name, tensor in old[0].tensors().items():
            assert torch.equal(tensor, new[0].tensors()[name])
    assert main(["store", "migrate", str(path), "--bank", str(file)]) == 0
    assert "1 -> 2 options; probe the new ones" in " ".join(capsys.readouterr().out.split())
    assert main(["store", "info", str(path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"probed: 47 layers, {IMAGES} images an option not probed: int8 " in told
    pipe = load_pipeline(PIPELINE)
    drawn: list[str] = []
    in_two = probe(
        *(pipe, wide, path), evaluator=SETTINGS, num_images=IMAGES, progress=lambda *at: drawn.append(at[2])
    ).header.responses
    in_one = probe(pipe, wide, tmp_path / "one.h5", evaluator=SETTINGS, num_images=IMAGES).header.responses
    assert len(drawn) == len(bank.layers)
    for name, values in in_one.spaces.items():
        one, two = (rows.reshape(len(bank.layers) * 2, -1) for rows in (values, in_two.spaces[name]))
        gram = one @ one.T
        np.testing.assert_allclose(two @ two.T, gram, atol=2e-3 * gram.max())


def test_coordinates_of_another_version_do_not_grow(probed: Store, bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(probed.path.read_bytes())
    with Store.writing(path) as store:
        responses = dataclasses.replace(store.header.responses, bases={})
        responses.spaces["latents"][0] = np.nan
        store.rewrite(dataclasses.replace(store.header, responses=responses))
    with pytest.raises(QsdError, match="did not keep what new options are compared by; probe again"):
        probe(load_pipeline(PIPELINE), bank, path, evaluator=SETTINGS, num_images=IMAGES)


def test_a_probed_store_is_labeled_like_any(bank: Bank, probed: Store) -> None:
    pipe = load_pipeline(PIPELINE)
    label(pipe, bank, probed.path, num_configs=1, evaluator=SETTINGS)
    again = Store.open(probed.path)
    assert len(again.records) == 1
    assert again.header.provenance["full_precision"]["fid"] > 0
    for name, values in again.header.responses.spaces.items():
        np.testing.assert_array_equal(values, probed.header.responses.spaces[name])


def test_other_images_are_refused(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    store = probe(load_pipeline(PIPELINE), bank, path, evaluator=SETTINGS, num_images=2)
    with pytest.raises(QsdError, match="probed with 2 images of noise seed 0, not 3 of 0"):
        probe(load_pipeline(PIPELINE), bank, path, evaluator=SETTINGS, num_images=3)
    again = probe(load_pipeline(PIPELINE), bank, path, evaluator=SETTINGS, num_images=3, restart=True)
    assert again.header.responses.num_images == 3
    assert not len(again.header.responses.missing())
    with pytest.raises(QsdError, match="begun with steps 2, not 3"):
        probe(
            load_pipeline(PIPELINE),
            bank,
            path,
            evaluator=dataclasses.replace(SETTINGS, steps=3),
            num_images=2,
        )
    assert set(store.header.responses.spaces) == {"latents", "features", "mean_features"}
    assert "torch" in store.header.provenance["probe"]["versions"]


def test_the_verb(bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank.save(tmp_path / "bank.safetensors")
    evaluation = dataclasses.asdict(dataclasses.replace(SETTINGS, reference=None))
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump({"pipeline": PIPELINE, "evaluation": evaluation}))
    words = ["--bank", str(tmp_path / "bank.safetensors"), "--store", str(tmp_path / "s.h5")]
    assert main(["probe", "--config", str(tmp_path / "probe.yaml"), *words, "--num-images", "2"]) == 0
    assert "probed: 47 layers, 2 images an option" in " ".join(capsys.readouterr().out.split())
    spaces = Store.open(tmp_path / "s.h5").header.responses.spaces
    assert list(spaces) == ["latents"]  # nothing to extract features for
    again = ["--num-images", "2", "--restart", "true", "--workers", "2"]
    assert main(["probe", "--config", str(tmp_path / "probe.yaml"), *words, *again]) == 0
    beside = Store.open(tmp_path / "s.h5").header.responses.spaces["latents"].reshape(47, -1)
    alone = spaces["latents"].reshape(47, -1)
    np.testing.assert_allclose(beside @ beside.T, alone @ alone.T, atol=1e-5)
    assert main(["probe", "--config", str(tmp_path / "probe.yaml"), *words, "--num-images", "3"]) == 2
    assert "probed with 2 images" in capsys.readouterr().err


def test_sketches_keep_lengths_and_angles() -> None:
    generator = torch.Generator().manual_seed(0)
    one, noise = torch.randn(2, 4, 20_000, generator=generator) / 20_000**0.5
    other = 0.6 * one + 0.8 * noise
    first, second = _sketched(one), _sketched(other)
    assert first.shape == (4, 2048)
    np.testing.assert_allclose(np.square(first).sum(axis=1), 1, atol=0.15)
    np.testing.assert_allclose((first * second).sum(axis=1), 0.6, atol=0.15)
    np.testing.assert_allclose(_sketched(one + other), first + second, atol=1e-5)
    alike = _sketched(one[:1].expand(4, -1))
    np.testing.assert_allclose(alike, alike[:1].repeat(4, axis=0))


def test_few_numbers_are_kept_as_they_are() -> None:
    values = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(_sketched(values), values.numpy())


def test_sketches_come_back_from_coordinates_and_join_new_ones() -> None:
    """Two goes give the lengths and angles of one go, but for what lies outside of 256 directions."""
    rng = np.random.default_rng(0)
    strength = rng.normal(size=(600, 400)) * 0.98 ** np.arange(400)
    directions = rng.normal(size=(400, 5, 100)) * np.array([1, 4, 1, 0.2, 0])[:, None]
    rows = (strength @ directions.reshape(400, -1)).reshape(100, 6, -1).astype(np.float32)
    later = rows.copy()
    later[:, 4:] = np.nan
    first = summarized(Responses({"features": later}, 5, 0, sketched=True))
    assert first.complete().tolist() == [True] * 4 + [False] * 2
    assert first.bases["features"].directions.dtype == np.int8
    back = resketched(first, "s.h5").spaces["features"]
    np.testing.assert_allclose(back[:, :4], rows[:, :4], atol=2e-2 * np.abs(rows).max())
    back[:, 4:] = rows[:, 4:]
    two = summarized(Responses({"features": back}, 5, 0, sketched=True))
    one = summarized(Responses({"features": rows}, 5, 0, sketched=True))
    for name in ("features", "mean_features"):
        ours, theirs = (some.spaces[name].reshape(600, -1) for some in (two, one))
        gram = theirs @ theirs.T
        np.testing.assert_allclose(ours @ ours.T, gram, atol=5e-3 * gram.max())


def test_sensitive_images_count_no_more_than_others() -> None:
    rng = np.random.default_rng(0)
    changes = rng.normal(size=(20, 3, 5, 8))
    uneven = changes * np.array([1, 30, 1, 0.1, 0])[:, None]
    unit = _units(uneven)[:, None]
    balanced = np.divide(uneven, unit, out=np.zeros_like(uneven), where=unit > 0)
    lengths = np.square(balanced).sum(axis=3).mean(axis=(0, 1))
    np.testing.assert_allclose(lengths[:4], lengths[0])
    assert lengths[4] == 0
    assert lengths[0] == pytest.approx(np.square(uneven).sum(axis=3).mean(axis=(0, 1)).mean())


def test_principal_coordinates_are_the_best_of_their_number() -> None:
    rng = np.random.default_rng(0)
    spread = 0.98 ** np.arange(400)
    values = (rng.normal(size=(500, 400)) * spread).reshape(100, 5, 400)
    kept, directions = _principal(values)
    kept, flat = kept.reshape(500, -1), values.reshape(500, 400)
    np.testing.assert_allclose(flat @ directions.T, kept, atol=1e-4)
    assert kept.shape == (500, 256)
    left, lengths, _ = np.linalg.svd(flat, full_matrices=False)
    best = (left[:, :256] * lengths[:256] ** 2) @ left[:, :256].T
    np.testing.assert_allclose(kept @ kept.T, best, atol=1e-4)


def test_no_more_coordinates_than_there_are_directions() -> None:
    values = np.zeros((10, 3, 400))
    values[..., :7] = np.random.default_rng(0).normal(size=(10, 3, 7))
    assert _principal(values)[0].shape == (10, 3, 7)
    assert _principal(np.zeros_like(values))[0].shape == (10, 3, 1)


def test_options_in_the_context_of_a_config() -> None:
    """What layers change adds up to the change from full precision, of that config and of its neighbours."""
    pipe = load_pipeline(PIPELINE)
    bank = build_bank(pipe, ["uaq-3", "uaq-4"])
    few = dataclasses.replace(SETTINGS, num_images=2, steps=1, reference=None)
    base = np.ones(len(bank.layers), np.int8)
    prober, alone = Prober(pipe, bank, few, base), Prober(pipe, bank, few)
    cells = Cells(3, (0, 1))
    (_, changes), (_, plain) = next(prober.run([cells])), next(alone.run([cells]))
    neighbour = base.copy()
    neighbour[3] = 0

    def change(config: np.ndarray) -> np.ndarray:
        with prober._applier as applier:
            applier.apply(config)
            drawn = prober._draw()["latents"]
        return _sketched(drawn - prober._full["latents"]).flatten()

    rest = change(base) * (len(base) - 1) / len(base)
    np.testing.assert_allclose(changes["latents"][1] + rest, change(base), atol=1e-5)
    np.testing.assert_allclose(changes["latents"][0] + rest, change(neighbour), atol=1e-5)
    assert not np.allclose(changes["latents"], plain["latents"], atol=1e-5)
