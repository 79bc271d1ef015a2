"""What ships fits together: every store is of its miniature, every YAML is parsed and does what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qsd.cli import main
from qsd.cli.fit import run as fit
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.identity import differing_part, identity
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.content import settings_content
from qsd.labels.conditions import pipeline_components
from qsd.quantizers import DEFAULT_OPTIONS
from qsd.store import Store
from qsd.support.paths import find, shipped_root
from qsd.support.yaml_files import read_yaml
from qsd.zoo.registry import LABELING, MINIATURES, labeling_settings

CONFIGS = shipped_root() / "lightning_configs"
FIT_CONFIGS = sorted(file for file in CONFIGS.glob("*.yaml") if "stores" in read_yaml(file).get("data", {}))
LABEL_CONFIGS = sorted(CONFIGS.glob("label_*.yaml"))


def test_there_is_a_fit_config_per_family_and_one_for_all() -> None:
    trained = {
        file.name: [Path(store).stem for store in read_yaml(file)["data"]["stores"]] for file in FIT_CONFIGS
    }
    assert trained["all.yaml"] == list(MINIATURES)
    for name in MINIATURES:
        assert [name] in trained.values()


@pytest.mark.parametrize("file", FIT_CONFIGS, ids=lambda file: file.name)
def test_every_fit_config_is_one_that_the_command_line_takes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(file), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["stores"] == read_yaml(file)["data"]["stores"]
    assert all(find(store).is_file() for store in printed["data"]["stores"])


@pytest.mark.parametrize("call", [main, fit], ids=["main", "fit"])
def test_bases_are_read_whoever_fits(
    call: Callable[[list[str]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(["fit", "--config", "pixart_best.yaml", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["max_epochs"] == read_yaml(find("ranker.yaml"))["trainer"]["max_epochs"]
    assert printed["data"]["stores"] == read_yaml(find("pixart.yaml"))["data"]["stores"]
    assert printed["data"]["target"] == read_yaml(find("pixart_best.yaml"))["data"]["target"]


def test_a_family_trains_on_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the store is found from anywhere
    quick = ["--trainer.max_steps", "3", "--data.folds", "2", "--trainer.enable_progress_bar", "false"]
    quick += ["--data.labels", "[]"]
    assert main(["fit", "--config", "dit.yaml", "--out", "ranker", *quick]) == 0
    (report,) = json.loads(Path("ranker/metrics.json").read_text()).values()
    assert report["ranker"]["spearman"]["value"] > 0.9
    assert Path("logs/ranker/version_0/metrics.csv").is_file()


@pytest.mark.parametrize("file", LABEL_CONFIGS, ids=lambda file: file.name)
def test_every_label_config_names_what_ships(file: Path) -> None:
    content = read_yaml(file)
    settings = EvaluationSettings(**content["evaluation"])
    classes, paired = settings.load_classes(), settings.reference is None
    if settings.prompts is not None:
        assert len(settings.load_prompts()) == settings.num_images
    assert paired or settings.prompts is None or (classes is not None and len(classes) == settings.num_images)
    assert Path(content["pipeline"]).name in LABELING


@pytest.mark.parametrize("name", MINIATURES)
def test_every_store_is_of_its_miniature_and_label_config(name: str) -> None:
    store = Store.open(shipped_root() / "datasets" / f"{name}.h5")
    pipe = load_pipeline(shipped_root() / "checkpoints" / name)
    assert differing_part(store.header.denoiser, identity(denoiser_of(pipe))) is None
    assert store.header.options == DEFAULT_OPTIONS
    content = settings_content(labeling_settings(name, 200))
    assert {key: store.header.conditions.get(key) for key in content} == content
    assert store.header.conditions["components"] == pipeline_components(pipe)
    assert len(set(store.records.index.tolist())) >= 240
    assert np.isfinite(store.values("fid")).all()
