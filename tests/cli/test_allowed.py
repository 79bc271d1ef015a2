import json
from pathlib import Path

import pytest
import yaml
from support.synthetic_store import synthetic_store

from qsd.cli import main
from qsd.cli.allowed import check_classes
from qsd.support.errors import QsdError
from qsd.support.paths import shipped_root

_TRACE = """
from pathlib import Path
from lightning.pytorch.callbacks import Callback
Path(__file__).with_name("imported").touch()
class Marked(Callback):
    pass
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module that leaves a file behind when it is imported, and a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("strangers.py").write_text(_TRACE)
    synthetic_store(tmp_path / "a.h5", 40, 1)
    return tmp_path


def _settings(callbacks):
    return {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False, "callbacks": callbacks},
        "data": {"stores": ["a.h5"], "target": "-log(fid)", "folds": 2},
        "model": {"network": {"width": 8, "depth": 1, "heads": 2}},
    }


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "tune"])
@pytest.mark.parametrize(
    "callbacks",
    [
        [{"class_path": "strangers.Marked"}],
        ["strangers.Marked"],
        [{"class_path": "EarlyStopping", "init_args": {"monitor": {"class_path": "strangers.Marked"}}}],
        [{"class_path": "lightning.pytorch.trainer.trainer.os.system", "init_args": {"command": "true"}}],
    ],
)
def test_a_shared_yaml_names_no_strangers(place, capsys, verb, callbacks):
    Path("fit.yaml").write_text(yaml.safe_dump(_settings(callbacks)))
    assert main([verb, "--config", "fit.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "fit.yaml: " in told
    assert "--allow " in told
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.callbacks=strangers.Marked"],
        ["--trainer.callbacks+=strangers.Marked"],
        ["--trainer.logger", "strangers.Marked"],
        ["--trainer.callbacks", json.dumps([{"class_path": "strangers.Marked"}])],
        ["--trainer.logger.class_path", "strangers.Marked"],
        ["--trainer", "trainer.txt"],
        ["--trainer.callbacks.help=strangers.Marked"],
    ],
)
def test_nor_does_a_command_line(place, capsys, words):
    Path("trainer.txt").write_text(yaml.safe_dump(_settings(["strangers.Marked"])["trainer"]))
    assert main(["fit", "--data.stores", "[a.h5]", *words]) == 2
    told = capsys.readouterr().err
    assert "--allow strangers" in told
    assert told.count("\n") == 1
    assert not Path("imported").exists()


def test_nor_do_files_that_a_file_names(place, capsys):
    Path("base.yaml").write_text(yaml.safe_dump(_settings(["strangers.Marked"])))
    Path("fit.yaml").write_text("base: base.yaml\ntrainer: {max_epochs: 1}\n")
    Path("nested.yaml").write_text("trainer: trainer.yaml\n")
    Path("trainer.yaml").write_text(yaml.safe_dump(_settings(["strangers.Marked"])["trainer"]))
    for name, guilty in (("fit.yaml", "base.yaml"), ("nested.yaml", "trainer.yaml")):
        assert main(["fit", "--config", name]) == 2
        assert f"{guilty}: " in capsys.readouterr().err
    Path("bank.yaml").write_text("pipeline: {class_path: strangers.Marked}\n")
    assert main(["bank", "--config", "bank.yaml"]) == 2
    assert "bank.yaml: class_path names strangers.Marked" in capsys.readouterr().err
    assert not Path("imported").exists()


def test_an_allowed_module_is_built(place):
    Path("fit.yaml").write_text(yaml.safe_dump(_settings([{"class_path": "strangers.Marked"}])))
    assert main(["fit", "--config", "fit.yaml", "--out", "ranker", "--allow", "strangers"]) == 0
    assert Path("imported").exists()
    assert Path("ranker/ranker.json").exists()


@pytest.mark.parametrize("module", ["", "my callbacks", "--config"])
def test_what_is_allowed_is_a_module(module):
    with pytest.raises(QsdError, match="name a module"):
        check_classes(["fit", "--allow", module])


def test_what_lightning_qsd_and_torch_have_stays_allowed(place):
    callbacks = [
        "EarlyStopping",
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "x"}},
        "optuna_integration.PyTorchLightningPruningCallback",
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "runs.old/ckpt"}},
    ]
    Path("test.h5").touch()
    words = ["fit", "--config", "fit.yaml", "--data.stores", "[test.h5, json.h5]", "--data.target=-log(fid)"]
    Path("fit.yaml").write_text(yaml.safe_dump(_settings(callbacks)))
    assert check_classes(words) == words


@pytest.mark.parametrize(
    "file", sorted(shipped_root().glob("lightning_configs/*.yaml")), ids=lambda f: f.name
)
def test_shipped_settings_are_allowed(file):
    words = ["fit" if "model:" in file.read_text() else "tune", "--config", str(file)]
    assert check_classes(words) == words


def test_what_is_too_large_to_look_through_is_refused(place):
    Path("big.yaml").write_text("#" * 2**21)
    with pytest.raises(QsdError, match=r"big\.yaml: too long to look through"):
        check_classes(["fit", "--config", "big.yaml"])
