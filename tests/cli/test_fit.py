import csv
import json

import lightning
import numpy as np
import pytest
import torch
import yaml
from support.synthetic_store import synthetic_fid, synthetic_store

from qsd.cli.fit import run
from qsd.configs.sampling import sample_configs
from qsd.ranker.checkpoint import load_ranker
from qsd.ranker.data import StoreDataModule
from qsd.ranker.metrics import mean_correlation, spearman
from qsd.ranker.module import RankerModule
from qsd.ranker.network import NetworkSettings
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.paths import find, shipped_root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two stores, a YAML, and a ranker that was fitted with them."""
    folder = tmp_path_factory.mktemp("fit")
    synthetic_store(folder / "a.h5", 60, 1)
    synthetic_store(folder / "b.h5", 60, 2)
    loggers = [
        {"class_path": name, "init_args": {"save_dir": str(folder), "name": "logs"}}
        for name in ("CSVLogger", "TensorBoardLogger")
    ]
    config = {
        "seed_everything": 1,
        "out": str(folder / "ranker"),
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "logger": loggers, "num_sanity_val_steps": 0},
        "data": {"stores": [str(folder / "a.h5")], "target": "-log(fid)", "auxiliary": ["clip"], "folds": 2},
        "model": {"network": {"width": 8, "depth": 1, "heads": 2}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(folder / "config.yaml")])
    return folder


def _checkpoint(place):
    return str(next(place.rglob("last.ckpt")))


def test_fit_writes_metrics_and_a_ranker(place):
    report = json.loads((place / "ranker" / "metrics.json").read_text())[str(place / "a.h5")]
    assert list(report) == [
        "ranker",
        "ridge on one-hots",
        "ridge on one-hots + errors",
        "sum of errors",
        "average bits",
    ]
    for row in report.values():
        assert set(row) == {"spearman", "kendall", "ndcg@10", "top10_regret", "best_of_10_regret"}
    ranker = load_ranker(place / "ranker")
    assert ranker.metrics == {str(place / "a.h5"): report}
    for label in (None, "fid", "clip"):
        found = ranker.posterior(np.zeros((3, len(ranker.header.layers)), np.int8), label=label)
        assert np.isfinite(found.mean).all()
        assert (found.variance > 0).all()
    calibration = json.loads((place / "ranker" / "calibration.json").read_text())[str(place / "a.h5")]
    assert set(calibration) == {"target", "fid", "clip"}
    assert 0 <= calibration["fid"]["coverage_90"] <= 1


def test_fit_logs(place):
    with next(place.rglob("metrics.csv")).open() as file:
        columns = next(csv.reader(file))
    assert {"train_loss", "val_spearman", "val_mse"} <= set(columns)
    assert list(place.rglob("events.out.tfevents.*"))


def test_checkpoints_need_no_pickle(place):
    checkpoint = torch.load(_checkpoint(place), weights_only=True)
    assert checkpoint["hyper_parameters"]["network"]["width"] == 8


def test_same_seed_same_ranker(place):
    run(["fit", "--config", str(place / "config.yaml"), "--out", str(place / "again")])
    configs = np.random.default_rng(0).integers(0, 6, (5, 9)).astype(np.int8)
    ours, theirs = (load_ranker(place / name).posterior(configs).mean for name in ("ranker", "again"))
    np.testing.assert_array_equal(ours, theirs)


def test_resume(place):
    words = ["fit", "--config", str(place / "config.yaml"), "--out", str(place / "resumed")]
    run([*words, "--trainer.max_epochs", "3", "--ckpt_path", _checkpoint(place)])
    document = json.loads((place / "resumed" / "ranker.json").read_text())
    assert document["provenance"]["epochs"] == 3


@pytest.mark.parametrize("source", ["checkpoint", "folder", "out"])
def test_test_prints_the_table(place, capsys, source):
    words = ["test", "--config", str(place / "config.yaml")]
    words += {
        "checkpoint": ["--ckpt_path", _checkpoint(place)],
        "folder": ["--ckpt_path", str(place / "ranker")],
    }.get(source, [])
    run(words)
    printed = capsys.readouterr().out
    assert "ridge on" in printed
    assert "spearman" in printed


@pytest.mark.parametrize("verb", ["validate", "predict"])
def test_other_verbs(place, verb):
    run([verb, "--config", str(place / "config.yaml"), "--ckpt_path", _checkpoint(place)])


def test_validation_ranks_all_records_by_the_members_that_held_them_out(tmp_path):
    store = synthetic_store(tmp_path / "a.h5", 60, 1)
    data = StoreDataModule([str(store.path)], target="-log(fid)", folds=3)
    module = RankerModule(NetworkSettings(width=8, depth=1, heads=2))
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.validate(module, datamodule=data)
    module.members.calibrate(data.stores)
    records = data.stores[0]
    predicted = torch.full((len(records.fold),), torch.nan)
    with torch.no_grad():
        for index, member in enumerate(module.members):
            rows = records.validation_rows(index)
            predicted[rows] = member.score(records.graph, records.configs[rows])
    known = records.known_rows()
    rank = spearman(records.targets[known, 0].numpy(), predicted[known].numpy())
    assert metrics["val_spearman"] == pytest.approx(rank, abs=1e-6)


def test_validation_ranks_members_with_as_many_labels_together(tmp_path):
    store = synthetic_store(tmp_path / "a.h5", 80, 1)
    data = StoreDataModule([str(store.path)], target="-log(fid)", folds=4, member_labels=[10, 40])
    module = RankerModule(NetworkSettings(width=8, depth=1, heads=2, graph_head=False))
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.validate(module, datamodule=data)
    records, members = data.stores[0], list(module.members)
    ranks = []
    for some in ((0, 2), (1, 3)):
        rows = [records.validation_rows(index) for index in some]
        parts = zip(rows, some, strict=True)
        scores = [members[index].score(records.graph, records.configs[part]) for part, index in parts]
        ranks.append(
            spearman(records.targets[torch.cat(rows), 0].numpy(), torch.cat(scores).detach().numpy())
        )
    assert metrics["val_spearman"] == pytest.approx(mean_correlation(ranks), abs=1e-6)


def test_two_stores_at_once(place):
    both = f"[{place / 'a.h5'},{place / 'b.h5'}]"
    out = place / "both"
    run(["fit", "--config", str(place / "config.yaml"), "--data.stores", both, "--out", str(out)])
    assert len(json.loads((out / "metrics.json").read_text())) == 2
    first = load_ranker(out)
    document = json.loads((out / "ranker.json").read_text())
    second = load_ranker(out, document["denoisers"][1]["denoiser"])
    assert len(second.header.layers) == len(first.header.layers) + 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data.target=-kid"], "has no 'kid'; it has fid, clip, avg_bits, bytes"),
        (["--data.target", "__import__('os')"], "cannot read"),
        (["--data.stores", "[nothing.h5]"], "nothing.h5: no such file"),
    ],
)
def test_mistakes(place, change, message):
    with pytest.raises(QsdError, match=message.replace("(", r"\(")):
        run(["fit", "--config", str(place / "config.yaml"), *change])


def test_test_needs_a_ranker(place):
    with pytest.raises(QsdError, match="which ranker"):
        run(["test", "--config", str(place / "config.yaml"), "--out", "null"])


def test_print_config(place, capsys):
    with pytest.raises(SystemExit):
        run(["fit", "--config", str(place / "config.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["network"]["conv"] == "gatv2"


SHIPPED = sorted((shipped_root() / "lightning_configs").glob("*.yaml"))


@pytest.mark.parametrize(
    "file", [file for file in SHIPPED if "model:" in file.read_text()], ids=lambda f: f.name
)
def test_shipped_configs_parse_anywhere(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(["fit", "--config", str(find(file.name)), "--print_config"])
    assert stop.value.code == 0


@pytest.mark.parametrize("labels", [0, 10])
def test_a_probed_store_needs_no_labels(tmp_path, labels, capsys):
    store = synthetic_store(tmp_path / "p.h5", labels, 1, probed=True)
    words = [
        "fit",
        "--data.stores",
        f"[{store.path}]",
        "--data.target=-log(fid)",
        "--out",
        str(tmp_path / "ranker"),
    ]
    run([*words, "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false"])
    ranker = load_ranker(tmp_path / "ranker")
    configs = sample_configs(ranker.header.options, len(ranker.header.layers), 100, seed=9)
    truth = -np.log(synthetic_fid(ranker.header, configs))
    assert spearman(truth, ranker.posterior(configs).mean) > (0.9 if labels else 0.7)
    assert ranker.labels == (["fid", "clip"] if labels else ["latent_mse"])
    assert "too few to test on" in capsys.readouterr().err


def test_a_store_that_was_not_probed_needs_labels(tmp_path):
    store = synthetic_store(tmp_path / "n.h5", 10, 1)
    with pytest.raises(QsdError, match="label more with"):
        run(["fit", "--data.stores", f"[{store.path}]", "--out", str(tmp_path / "ranker")])


def test_a_ranker_of_another_denoiser_is_refused(place):
    """Also in a Lightning checkpoint; what differs is named."""
    other = ["--config", str(place / "config.yaml"), "--data.stores", f"[{place / 'b.h5'}]"]
    with pytest.raises(QsdError, match=r"trained for Synthetic with weights 0.*, not for Synthetic"):
        run(["test", *other])
    with pytest.raises(QsdError, match=r"b\.h5: of Synthetic .*, but the checkpoint was trained on"):
        run(["test", *other, "--ckpt_path", _checkpoint(place)])


def test_a_ranker_of_two_denoisers_finds_the_one_of_the_store(place, capsys):
    both, out = f"[{place / 'a.h5'},{place / 'b.h5'}]", place / "pair"
    words = ["--config", str(place / "config.yaml"), "--out", str(out)]
    run(["fit", *words, "--data.stores", both])
    wanted = json.loads((out / "metrics.json").read_text())[str(place / "b.h5")]["ranker"]["spearman"]
    capsys.readouterr()
    run(["test", *words, "--data.stores", f"[{place / 'b.h5'}]"])
    assert f"{wanted['value']:.3f}" in capsys.readouterr().out
    assert load_ranker(out, Store.open(place / "b.h5").header.denoiser).store == 1


def test_a_try_keeps_the_ranker(place):
    before = {file.name: file.read_bytes() for file in (place / "ranker").iterdir()}
    run(["fit", "--config", str(place / "config.yaml"), "--trainer.fast_dev_run", "true"])
    assert {file.name: file.read_bytes() for file in (place / "ranker").iterdir()} == before


def test_one_of_several_processes_writes_the_ranker(place, monkeypatch):
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda self: False))
    run(["fit", "--config", str(place / "config.yaml"), "--out", str(place / "second")])
    assert not (place / "second").exists()


def test_without_checkpoints(place):
    out = place / "unsaved"
    words = ["fit", "--config", str(place / "config.yaml"), "--out", str(out)]
    run([*words, "--trainer.enable_checkpointing", "false"])
    assert load_ranker(out).header.denoiser["class"] == "Synthetic"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--trainer.precision", "bf16-mixed"],
            "precision is bf16-mixed: the graph layers add up",
        ),
        (["--ckpt_path", "last"], "--ckpt_path last names no file"),
    ],
)
def test_what_fit_cannot_do_is_said(place, change, message):
    with pytest.raises(QsdError, match=message):
        run(["fit", "--config", str(place / "config.yaml"), "--out", str(place / "no"), *change])
    assert not (place / "no").exists()


def test_a_ranker_of_other_stores_is_kept(place, capsys):
    """Also if they are of the same denoiser; --overwrite or a fit of the same stores replaces it."""
    out = place / "kept"
    words = ["fit", "--config", str(place / "config.yaml"), "--out", str(out), "--trainer.max_epochs", "1"]
    run(words)
    before = (out / "ranker.json").read_bytes()
    other = [*words, "--data.stores", f"[{place / 'b.h5'}]"]
    with pytest.raises(QsdError, match=r"made of another denoisers and another stores; .*--overwrite"):
        run(other)
    (place / "copy.h5").write_bytes((place / "a.h5").read_bytes())
    with pytest.raises(QsdError, match="made of another stores"):
        run([*words, "--data.stores", f"[{place / 'copy.h5'}]"])
    assert (out / "ranker.json").read_bytes() == before
    run(words)
    run([*other, "--overwrite"])
    document = json.loads((out / "ranker.json").read_text())
    assert document["provenance"]["stores"] == [str(place / "b.h5")]


def test_a_store_that_was_probed_in_latents_alone_is_fitted(tmp_path):
    """Videos and sounds have no features of images."""
    words = ["--out", str(tmp_path / "ranker"), "--data.folds", "2", "--trainer.max_epochs", "0"]
    words += ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    run(["fit", "--config", str(find("emoji_wan.yaml")), *words])
    [report] = json.loads((tmp_path / "ranker" / "metrics.json").read_text()).values()
    assert report["ranker"]["spearman"]["value"] > 0.95
