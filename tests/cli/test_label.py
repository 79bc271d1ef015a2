"""`qsd label` and `qsd probe` on a tiny pipeline: shards, few images, chosen configs, costs, loggers."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_pipelines import PROMPTS, dit

import qsd
from qsd.cli import main
from qsd.evaluation import Evaluator
from qsd.labels import Measurer
from qsd.store import Store
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What all command lines share."""
    folder = tmp_path_factory.mktemp("label")
    dit().save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    pipe = qsd.load_pipeline(folder / "pipeline")
    qsd.build_bank(pipe, ["uaq-3", "uaq-4"]).save(folder / "bank.safetensors")
    evaluation = {"num_images": 4, "steps": 1, "guidance": 1.0, "batch_size": 2}
    evaluation["prompts"] = str(folder / "prompts.txt")
    settings = [f"--evaluation.{name}={value}" for name, value in evaluation.items()]
    return ["--pipeline", str(folder / "pipeline"), "--bank", str(folder / "bank.safetensors"), *settings]


def assert_same(one: Path, other: Path) -> None:
    """Records bit for bit, but for the seconds that they took, and responses."""
    a, b = Store.open(one), Store.open(other)
    for name, column in vars(a.records).items():
        if name != "seconds":
            np.testing.assert_array_equal(column, vars(b.records)[name])
    spaces = [store.header.responses.spaces if store.header.responses else {} for store in (a, b)]
    assert spaces[0].keys() == spaces[1].keys()
    for name in spaces[0]:
        np.testing.assert_array_equal(*(space[name] for space in spaces))


def test_shards_are_what_one_process_makes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, whole = tmp_path / "alone.h5", tmp_path / "whole.h5"
    shared = [*words, "--num-images", "2", "--store"]
    assert main(["probe", *shared, str(alone)]) == 0
    assert main(["label", *words, "--store", str(alone), "--num-configs", "4"]) == 0
    for share in ("1/2", "2/2"):
        assert main(["probe", *shared, str(whole), "--shard", share]) == 0
    assert main(["label", *words, "--store", str(whole), "--num-configs", "2", "--shard", "a"]) == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    assert main(["label", *words, "--store", str(whole), "--num-configs", "4", "--shard", "auto"]) == 0
    assert len(Store.open(tmp_path / "whole.h5.shards" / "array-5.h5").records) == 2
    printed = "".join(capsys.readouterr().out.split())  # lines break anywhere
    assert f"qsdstoremerge{whole}{whole}.shards" in printed
    assert main(["store", "merge", str(whole), f"{whole}.shards"]) == 0
    assert_same(alone, whole)


def test_costs_are_told_and_nothing_is_written(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "s.h5")]
    assert main(["label", *words, *store, "--num-configs", "3", "--dry-run=true", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["images"] == {"full precision": 4, "label": 12}
    assert cost["hours"] == pytest.approx(16 * cost["seconds_per_image"] / 3600)
    assert cost["peak_memory_bytes"] > 2**24
    assert cost["batch_size"] == 2 and "largest_batch" in cost
    (tmp_path / "c.yaml").write_text("kind: local\nworkers: 4\n")
    there = ["--cluster", str(tmp_path / "c.yaml")]
    assert main(["label", *words, *store, *there, "--num-configs", "3", "--dry-run=true", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_batch"] is None  # nobody knows the memory there
    (tmp_path / "c.yaml").unlink()
    assert main(["probe", *words, *store, "--num-images", "2", "--dry-run=true", "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert images["probe"] % 4 == 0  # two options, two images
    assert main(["label", *words, *store, "--profile=true", "--json"]) == 0
    seconds = json.loads(capsys.readouterr().out)["seconds"]
    assert set(seconds) == {"denoiser", "decode", "metrics", "rest"}
    assert min(seconds["denoiser"], seconds["decode"], seconds["rest"]) > 0 == seconds["metrics"]
    assert main(["label", *words, *store, "--num-configs", "3", "--dry-run=true"]) == 0
    assert "no real images" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())


def test_few_images_chosen_configs_and_a_log(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    label = ["label", *words, "--store", str(path)]
    around = ["--num-images", "2", "--around", "uaq-4"]
    assert main(["probe", *words, "--store", str(path), *around]) == 0
    assert main(["probe", *words, "--store", str(path), *around[:2]]) == 2  # around another config
    assert main([*label, "--num-configs", "3", "--images", "2", "--logger", "csv"]) == 0
    rows = list(csv.DictReader(next((tmp_path / "s.h5.log").rglob("metrics.csv")).open()))
    assert [float(row["config"]) for row in rows] == [0, 1, 2]
    assert float(rows[2]["best_psnr"]) == max(float(row["psnr"]) for row in rows)
    assert float(rows[0]["records_per_hour_per_worker"]) > 0
    assert main([*label, "--num-configs", "2"]) == 0
    active = ["--strategy", "active", "--active.target=psnr", "--active.batch=2"]
    assert main([*label, "--num-configs", "3", "--images", "2", *active]) == 0
    records = Store.open(path).records
    assert sorted(records.index) == [-3, -2, -1, 0, 0, 1, 1, 2]
    assert sorted(records.num_images) == [2] * 6 + [4] * 2


def test_costs_are_those_of_what_is_missing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "s.h5")]

    def cost(*extra: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["label", *words, *store, "--dry-run", "--json", *extra]) == 0
        return json.loads(capsys.readouterr().out)

    assert main(["label", *words, *store, "--num-configs", "2", "--images", "2", "--shard", "a"]) == 0
    assert cost("--num-configs", "3", "--images", "2")["images"]["label"] == 2  # one config, two images
    assert cost("--num-configs", "3")["images"]["label"] == 12  # none is labeled on all four
    assert cost("--num-configs", "3", "--strategy", "active")["images"]["label"] == 12
    assert main(["label", *words, *store, "--num-configs", "5"]) == 0
    assert cost("--num-configs", "3")["images"]["label"] == 0
    (tmp_path / "c.yaml").write_text("kind: slurm\nworkers: 50\n")
    facts = cost("--num-configs", "6", "--cluster", str(tmp_path / "c.yaml"))
    assert facts["hours"] == pytest.approx(8 * facts["seconds_per_image"] / 3600 / 50)
    assert main(["label", *words, *store, "--dry-run", "--images", "9"]) == 2


def test_configs_that_fail_are_left_out_and_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    label = ["label", *words, "--store", str(tmp_path / "s.h5"), "--num-configs", "4"]
    measure, calls = Measurer.measure, itertools.count()

    def failing(self: Measurer, *job: Any) -> Any:
        if next(calls) == 1:
            raise QsdError("the latents are not finite numbers")
        return measure(self, *job)

    with monkeypatch.context() as patched:
        patched.setattr(Measurer, "measure", failing)
        assert main(label) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "1 left out, such as config 1: the latents are not finite numbers; all others are stored" in said
    assert "3 of 4 configs are labeled; the others: qsd " in said
    assert Store.open(tmp_path / "s.h5").records.index.tolist() == [0, 2, 3]
    assert main(label) == 0
    assert "configs are labeled" not in capsys.readouterr().err
    assert sorted(Store.open(tmp_path / "s.h5").records.index) == [0, 1, 2, 3]


def test_without_full_precision_no_config_is_tried(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    label = ["label", *words, "--store", str(tmp_path / "s.h5"), "--num-configs"]
    assert main([*label, "1"]) == 0
    tried = itertools.count()

    def failing(*_: Any) -> Any:
        next(tried)
        raise QsdError("the latents are not finite numbers")

    monkeypatch.setattr(Evaluator, "full_precision", failing)
    assert main([*label, "4"]) == 2
    assert next(tried) == 1
    assert "qsd: full precision: the latents are not finite numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--images", "9"], "images 9: give 2 to the evaluation's 4"),
        (["--shard", "0/2"], "shard 0/2: shards are numbered from 1/2 on"),
        (["--shard", "auto", "--workers", "2"], "--shard and --workers: give one of them"),
        (["--shard", "auto", "--strategy", "active"], "one process chooses"),
        (["--strategy", "active"], "needs a probed store; run `qsd probe` first"),
    ],
)
def test_mistakes_are_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert main(["label", *words, "--store", str(tmp_path / "s.h5"), "--num-configs", "2", *extra]) == 2
    assert message in capsys.readouterr().err
