"""The universal ranker against brute force, closed forms, and through the real command line."""

import dataclasses
import json

import lightning
import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from support.options import SIX
from support.synthetic_store import synthetic_header, synthetic_responses, synthetic_store

from qsd.bank import Bank
from qsd.cli import main
from qsd.configs.sampling import sample_configs
from qsd.labels.budget import layers_to_probe
from qsd.quantizers import QuantizedWeight
from qsd.ranker.studies import open_study
from qsd.ranker.tuning import Dimension, tune
from qsd.ranker.universal.binding import bind
from qsd.ranker.universal.completing import filled_in, with_responses
from qsd.ranker.universal.data import UniversalDataModule
from qsd.ranker.universal.deviations import Variances, deviations
from qsd.ranker.universal.expected import Expected
from qsd.ranker.universal.files import load_universal
from qsd.ranker.universal.graphs import LayerGraph
from qsd.ranker.universal.module import UniversalModule, score
from qsd.ranker.universal.network import SPACES, ResponseNetwork, UniversalSettings, log_length
from qsd.ranker.universal.predictor import UniversalPredictor
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

VARIANCES = Variances(offset=0.5, role=0.7, block=0.3, layer=0.4, option=0.2)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [synthetic_store(folder / f"s{k}.h5", 60, 2 + k % 2, seed=k, probed=True) for k in range(4)]


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rankers") / "universal"
    paths = [str(store.path) for store in stores]
    words = ["fit", "--config", "universal.yaml", "--data.stores", json.dumps(paths), "--out", str(folder)]
    few = [
        "--trainer.max_epochs",
        "1",
        "--data.steps",
        "3",
        "--data.num_configs",
        "32",
        "--data.leave_out",
        "s3",
    ]
    assert main([*words, *few, "--trainer.logger", "false"]) == 0
    return load_universal(folder)


def bank_of(header) -> Bank:
    weights = [
        [QuantizedWeight.empty(option, layer.shape) for option in header.options] for layer in header.layers
    ]
    return Bank(
        *(header.denoiser, header.layers, header.graph, header.options, weights, header.relative_error, {})
    )


@pytest.mark.parametrize("conv", ["sage", "gatv2", "gin", "graphconv", "transformer", "none"])
def test_denoisers_side_by_side_do_not_see_each_other(conv):
    torch.manual_seed(0)
    network = ResponseNetwork(UniversalSettings(conv=conv, width=8, readout="all")).eval()
    graphs = [LayerGraph.of(synthetic_header(blocks, seed)) for blocks, seed in ((2, 0), (3, 1))]
    joined = LayerGraph.joined(graphs)
    network.fit_scales(joined)
    together = network(joined)
    apart = [torch.cat(part) for part in zip(*map(network, graphs), strict=True)]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert float(together[1].norm(dim=-1).max()) < 1


def test_length_of_a_summed_change():
    generator = torch.Generator().manual_seed(0)
    energy = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    embedding = torch.randn(4, 3, 2, 5, generator=generator, dtype=torch.float64) / 4
    config = torch.tensor([[0, 2, 1, 1]])
    chosen = [(layer, int(option)) for layer, option in enumerate(config[0])]
    for space in range(2):
        total = 0.0
        for one in chosen:
            for other in chosen:
                cosine = 1.0 if one == other else embedding[one][space] @ embedding[other][space]
                total += cosine * torch.exp((energy[one][space] + energy[other][space]) / 2)
        torch.testing.assert_close(log_length(energy, embedding, config)[0, space], total.log())


def dense(header, variances: Variances) -> np.ndarray:
    """Prior covariance of all pairs but for the offset, float64 [R, R]."""
    options = len(header.options)
    rows = [(layer, index) for index, layer in enumerate(header.layers) for _ in range(options)]
    matrix = np.zeros((len(rows), len(rows)))
    for one, (first, i) in enumerate(rows):
        for other, (second, j) in enumerate(rows):
            matrix[one, other] = (
                variances.role * (first.role == second.role)
                + variances.block * (first.block == second.block >= 0)
                + variances.layer * (i == j)
                + variances.option * (one == other)
            )
    return matrix


def test_probes_condition_what_is_expected_of_other_layers():
    header = synthetic_header(2)
    shape = header.num_bytes.shape
    observed = np.full(shape, np.nan)
    observed[[1, 4, 9]] = np.random.default_rng(0).normal(1, 1, (3, shape[1]))
    found = deviations(header, VARIANCES, observed)
    seen = np.isfinite(observed).ravel()
    prior, offset = dense(header, VARIANCES), np.nanmean(observed)
    gain = prior[:, seen] @ np.linalg.inv(prior[np.ix_(seen, seen)])
    mean = offset + gain @ (observed.ravel()[seen] - offset)
    covariance = prior - gain @ prior[seen]
    np.testing.assert_allclose(found.mean, mean, atol=1e-8)
    np.testing.assert_allclose(found.factor @ found.factor.T + np.diag(found.own), covariance, atol=1e-8)


def test_variances_are_found_again():
    headers = [synthetic_header(6, seed) for seed in range(12)]
    rng = np.random.default_rng(0)
    residuals = []
    for header in headers:
        values = rng.multivariate_normal(np.zeros(header.num_bytes.size), dense(header, VARIANCES))
        residuals.append(values.reshape(header.num_bytes.shape) + rng.normal(0, 0.5**0.5))
    found = Variances.of(residuals, headers)
    assert found.option == pytest.approx(VARIANCES.option, rel=0.1)
    assert found.layer == pytest.approx(VARIANCES.layer, rel=0.5)
    assert 0.2 < found.role < 1.5


def expected(header, seed: int = 0) -> Expected:
    rng = np.random.default_rng(seed)
    shape = header.num_bytes.shape
    return Expected(
        header=header,
        spaces=("latents", "features"),
        log_energy=rng.normal(-2, 1, (2, *shape)),
        embedding=rng.normal(0, 0.2, (2, shape[0] * shape[1], 3)),
        variances=(VARIANCES, VARIANCES),
        weights=np.array([0.4, 0.6]),
        extra=np.zeros(shape),
    )


def test_expected_changes_have_the_expected_lengths_and_cosines():
    header = synthetic_header(2)
    some = expected(header)
    values = some.given(None).responses.spaces["features"].astype(float)
    flat = values.reshape(-1, values.shape[2])
    np.testing.assert_allclose(np.square(flat).sum(axis=1), np.exp(some.log_energy[1]).ravel(), rtol=1e-4)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = some.embedding[1] @ some.embedding[1].T
    apart = ~np.eye(len(flat), dtype=bool)
    np.testing.assert_allclose((unit @ unit.T)[apart], cosines[apart], atol=1e-5)


def test_what_was_measured_stays_as_measured():
    header = synthetic_header(2)
    responses = synthetic_responses(header)
    whole = expected(header).given(responses).responses
    part = {name: values.astype(np.float32).copy() for name, values in responses.spaces.items()}
    for values in part.values():
        values[5:] = np.nan
    filled = expected(header).given(dataclasses.replace(responses, spaces=part)).responses
    for name, values in responses.spaces.items():
        for found, layers in ((whole, slice(None)), (filled, slice(0, 5))):
            truth, guess = (
                v.reshape(-1, v.shape[-1]).astype(float) for v in (values[layers], found.spaces[name][layers])
            )
            np.testing.assert_allclose(guess @ guess.T, truth @ truth.T, atol=1e-6)
        assert np.isfinite(filled.spaces[name]).all()


def test_variance_of_a_score_is_that_of_small_deviations():
    header = synthetic_header(2)
    small = Variances(*(1e-6 * value for value in dataclasses.astuple(VARIANCES)))
    some = dataclasses.replace(expected(header), variances=(small, small), weights=np.array([0.0, 1.0]))
    config = sample_configs(header.options, len(header.layers), 1, 0)
    _, variance = UniversalPredictor.of(some.given(None)).scores(config)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(np.zeros(header.num_bytes.size), dense(header, small), 2000)
    scores = []
    for draw in draws:
        moved = dataclasses.replace(some, log_energy=some.log_energy + draw.reshape(header.num_bytes.shape))
        energy = torch.from_numpy(moved.log_energy).permute(1, 2, 0)
        embedding = torch.from_numpy(some.embedding.reshape(2, *header.num_bytes.shape, -1)).permute(
            1, 2, 0, 3
        )
        scores.append(-float(log_length(energy, embedding, torch.from_numpy(config).long())[0, 1]))
    assert np.var(scores) == pytest.approx(variance[0], rel=0.15)


def test_mean_of_a_score_is_that_of_independent_deviations():
    header = synthetic_header(2)
    alone = Variances(offset=0.0, role=0.0, block=0.0, layer=0.0, option=1e-2)
    some = dataclasses.replace(expected(header), variances=(alone, alone), weights=np.array([0.0, 1.0]))
    config = sample_configs(header.options, len(header.layers), 1, 0)
    mean, _ = UniversalPredictor.of(some.given(None)).scores(config)

    def score_of(energy: np.ndarray) -> float:
        moved = torch.from_numpy(energy[1:]).permute(1, 2, 0)
        embedding = torch.from_numpy(some.embedding[1].reshape(*header.num_bytes.shape, 1, -1))
        return -float(log_length(moved, embedding, torch.from_numpy(config).long())[0, 0])

    rng = np.random.default_rng(0)
    draws = rng.normal(0, 0.1, (1000, *some.log_energy.shape))
    both = [score_of(some.log_energy + sign * draw) for draw in draws for sign in (1, -1)]
    plain = score_of(some.log_energy)
    assert np.mean(both) - plain == pytest.approx(mean[0] - plain, rel=0.1)
    assert mean[0] < plain - 1e-4


def test_a_denoiser_without_probes_and_labels_is_ranked(trained, stores):
    header = stores[3].header
    bound = bind(trained, bank_of(header))
    configs = sample_configs(header.options, len(header.layers), 20, 7)
    posterior = bound.ranker.posterior(configs)
    assert (posterior.std > 0).all()
    assert np.isfinite(posterior.mean).all()
    assert "no probes and no labels" in bound.notes[-1]
    assert not trained.knows(header.denoiser)
    assert trained.knows(stores[0].header.denoiser)
    labeled = bind(trained, bank_of(header), stores[3])
    truth = np.log(stores[3].values("fid"))
    guess = labeled.ranker.posterior(stores[3].records.config).mean
    assert np.corrcoef(-truth, guess)[0, 1] > 0.9
    assert {"fid", "clip"} <= set(labeled.ranker.labels)


def test_labels_that_do_not_tell_the_target_are_left_and_that_is_said(trained, stores, tmp_path):
    header = stores[3].header
    bound = bind(dataclasses.replace(trained, target="psnr"), bank_of(header), stores[3])
    assert any("has no psnr, which the target psnr needs: labels unused" in note for note in bound.notes)
    empty = Store.create(tmp_path / "probed.h5", header)
    probed = bind(trained, bank_of(header), empty)
    configs = sample_configs(header.options, len(header.layers), 20, 7)
    np.testing.assert_allclose(
        bound.ranker.posterior(configs).mean, probed.ranker.posterior(configs).mean, rtol=1e-9
    )


def test_what_it_never_saw_is_said_and_less_certain(trained, stores):
    header = stores[3].header
    plain = bind(trained, bank_of(header))
    strange = [
        dataclasses.replace(layer, role="other") if index == 3 else layer
        for index, layer in enumerate(header.layers)
    ]
    bound = bind(trained, bank_of(dataclasses.replace(header, layers=strange)))
    assert any("roles that it has never seen: other" in note for note in bound.notes)
    config = sample_configs(header.options, len(header.layers), 5, 0)
    assert (bound.ranker.posterior(config).std > plain.ranker.posterior(config).std).all()
    _, notes = trained.seen.news(
        dataclasses.replace(header, options=(SIX[0],) * 5 + (SIX[0].parse("uaq-8"),))
    )
    assert notes == ["options of kinds that it has never seen: uaq-8"]


def test_layers_that_were_not_probed_are_filled_in(trained, stores):
    store = stores[3]
    spaces = {
        name: values.astype(np.float32).copy() for name, values in store.header.responses.spaces.items()
    }
    for values in spaces.values():
        values[4:] = np.nan
    part = with_responses(store, dataclasses.replace(store.header.responses, spaces=spaces))
    filled, remark = filled_in(part, trained)
    assert not len(filled.header.responses.missing())
    assert f"4 of {len(store.header.layers)} layers probed" in remark
    assert filled_in(store, trained) == (store, "")


def test_the_share_to_probe_holds_what_is_measured(trained, stores):
    bank = bank_of(stores[3].header)
    layers = len(bank.layers)
    chosen = layers_to_probe(bank, 0.25, universal=trained)
    assert len(chosen) == int(np.ceil(0.25 * layers))
    spaces = {"latents": np.full((layers, 6, 2), np.nan)}
    spaces["latents"][[0, 7]] = 1.0
    measured = dataclasses.replace(stores[3].header.responses, spaces=spaces)
    more = layers_to_probe(bank, 0.5, measured, trained)
    assert {0, 7} <= set(more)
    assert len(more) == int(np.ceil(0.5 * layers))
    assert layers_to_probe(bank, 1e-9, measured, trained) == [0, 7]
    by_size = layers_to_probe(bank, 0.1)
    weight = bank.relative_errors.mean(axis=1) * bank.num_weights
    assert set(by_size) == set(np.argsort(-weight)[: len(by_size)].tolist())
    with pytest.raises(QsdError, match="give a share"):
        layers_to_probe(bank, 1.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.leave_out", "nobody"], "not among the stores"),
        (["--data.stores", "[datasets/digits-dit.h5]"], "at least 3 others"),
        (["--model.network.width", "7"], "multiple of heads"),
        (["--ckpt_path", "last.ckpt"], "keeps no checkpoints"),
    ],
)
def test_bad_settings_end_in_one_line(words, message, capsys, tmp_path):
    assert main(["fit", "--config", "universal.yaml", "--out", str(tmp_path / "u"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_store_that_was_not_probed_is_refused(stores, tmp_path, capsys):
    bare = synthetic_store(tmp_path / "bare.h5", 30)
    paths = json.dumps([str(store.path) for store in [*stores[:3], bare]])
    assert (
        main(["fit", "--config", "universal.yaml", "--data.stores", paths, "--out", str(tmp_path / "u")]) == 2
    )
    assert "not all of its layers are probed" in capsys.readouterr().err
    assert Store.open(bare.path).header.responses is None


@pytest.mark.parametrize(("name", "message"), [("twin", "of the same denoiser as"), ("s0", "are named s0")])
@pytest.mark.parametrize("leaves_out", [False, True])
def test_two_stores_of_one_denoiser_are_refused(stores, tmp_path, name, message, leaves_out):
    twin = tmp_path / f"{name}.h5"
    twin.write_bytes(stores[0].path.read_bytes())
    paths = [str(store.path) for store in stores] + [str(twin)]
    data = UniversalDataModule(paths, leave_out=name if leaves_out else None)
    with pytest.raises(QsdError, match=message):
        data.setup()


def test_a_damaged_ranker_is_refused(trained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained.folder, copy)
    shutil.copy(copy / "member-1.safetensors", copy / "member-0.safetensors")
    with pytest.raises(QsdError, match="belongs to another ranker"):
        load_universal(copy)
    document = json.loads((copy / "universal.json").read_text())
    (copy / "universal.json").write_text(json.dumps(document | {"target": "-kid"}))
    with pytest.raises(QsdError, match="hash"):
        load_universal(copy)
    assert len(SPACES) == len(trained.variances)


def test_a_study_leaves_every_denoiser_out(stores, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = read_yaml(find("universal.yaml"))
    base["data"] |= {"stores": [str(store.path) for store in stores], "steps": 2, "num_configs": 32}
    base["trainer"]["max_epochs"] = 1
    base["model"]["network"] |= {"width": 16, "depth": 1}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    words = ["tune", "--config", "base.yaml", "--space", "tune_universal.yaml", "--trials", "2"]
    assert main(words) == 0
    best = read_yaml(tmp_path / "runs" / "tune" / "best.yaml")
    assert best["ranker"] == "universal"
    assert UniversalSettings(**best["model"]["network"]).conv
    tried = Dimension.read("model.network.conv", {"choice": ["sage", "none"]})
    study = open_study(f"sqlite:///{tmp_path / 'other.db'}", "of modules")
    tune(study, base, [tried], 1)
    lightning.seed_everything(0, verbose=False)
    module, data = UniversalModule(**base["model"]), UniversalDataModule(**base["data"])
    trainer = lightning.Trainer(max_epochs=1, gradient_clip_val=2.0, accelerator="cpu", logger=False,
                                enable_checkpointing=False, num_sanity_val_steps=0)  # fmt: skip
    trainer.fit(module, datamodule=data)
    expected = []
    for member, store in zip(module.members, data.stores, strict=True):
        rows = store.data.known_rows()
        truth = store.data.targets[rows, 0].numpy()
        expected.append(spearmanr(truth, score(member, store, store.data.configs[rows]).numpy()).statistic)
    assert study.best_value == pytest.approx(np.mean(expected), abs=1e-6)
    capsys.readouterr()
    assert main([*words, "--study", "other", "--out", "runs/other", "--epochs", "0"]) == 2
    assert "has no closed form" in capsys.readouterr().err
