import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from support.synthetic_store import synthetic_store

from qsd.cli import main
from qsd.cli.fit import run
from qsd.ranker import tuning
from qsd.ranker.metrics import mean_correlation
from qsd.ranker.studies import open_study
from qsd.ranker.study_results import write_results
from qsd.ranker.tuning import (
    Dimension,
    base_trial,
    best_trial,
    loses,
    monitored,
    read_base,
    read_space,
    tune,
    with_values,
)
from qsd.support.errors import QsdError
from qsd.support.paths import shipped_root


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    synthetic_store(folder / "a.h5", 60, 1)
    return {
        "seed_everything": 0,
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0},
        "data": {"stores": [str(folder / "a.h5")], "target": "-log(fid)", "folds": 2},
        "model": {"network": {"width": 8, "depth": 1, "heads": 2}},
    }


SPACE = [
    Dimension("model.network.width", "int", [8, 16], step=8),
    Dimension("model.learning_rate", "float", [1e-3, 1e-2], log=True),
    Dimension("model.ranking_loss", "choice", ["hybrid", "none"]),
]


def _stop(*_):
    raise KeyboardInterrupt


def test_a_study_resumes_and_its_best_yaml_fits(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a fit without logger writes where it stands
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    tune(open_study(storage, "s"), base, SPACE, 1)
    resumed = open_study(storage, "s")
    tune(resumed, base, SPACE, 3)
    assert [trial.state for trial in resumed.trials] == [optuna.trial.TrialState.COMPLETE] * 3
    assert len({trial.params["model.learning_rate"] for trial in resumed.trials}) == 3
    tune(resumed, base, SPACE, 3)
    assert len(resumed.trials) == 3
    write_results(resumed, base, tmp_path / "out")
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["model"]["learning_rate"] == best_trial(resumed).params["model.learning_rate"]
    with (tmp_path / "out" / "trials.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["complete"] * 3
    assert {"history.png", "parallel.png"} <= {file.name for file in (tmp_path / "out").iterdir()}
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("qsd.ranker.study_results._write_plots", _stop)
        write_results(resumed, with_values(base, {"seed_everything": 7}), tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    run(["fit", "--config", str(tmp_path / "out" / "best.yaml"), "--out", str(tmp_path / "ranker")])
    assert (tmp_path / "ranker" / "ranker.json").is_file()


def test_a_study_begins_with_the_base(base, tmp_path):
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s")
    whole = with_values(base, {"model.learning_rate": 3e-3, "model.ranking_loss": "none"})
    tune(study, whole, SPACE, 1)
    assert study.trials[0].params == {
        "model.network.width": 8,
        "model.learning_rate": 3e-3,
        "model.ranking_loss": "none",
    }


def test_the_bases_own_settings_are_measured_whatever_stops(base, tmp_path, monkeypatch):
    """Also if the first trial was stopped or killed: the study ends with them among its finished trials."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    whole = with_values(base, {"model.learning_rate": 3e-3, "model.ranking_loss": "none"})
    real, stops = tuning.RankerModule.on_fit_start, [KeyboardInterrupt(), SystemExit(1)]

    def stopping(self):
        if stops:
            raise stops.pop(0)
        real(self)

    monkeypatch.setattr(tuning.RankerModule, "on_fit_start", stopping)
    for _ in range(2):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            tune(open_study(storage, "s"), whole, SPACE, 1)
    study = open_study(storage, "s")
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "FAIL", "WAITING"]
    tune(study, whole, SPACE, 1, epochs=0)
    assert base_trial(study).params == study.user_attrs["base"]
    assert len(study.trials) == 3

    killed = open_study(storage, "killed")
    killed.enqueue_trial(
        {"model.network.width": 8, "model.learning_rate": 3e-3, "model.ranking_loss": "none"}
    )
    killed.ask()  # its process dies here
    tune(killed, whole, SPACE, 1, epochs=0)
    assert base_trial(killed) is not None
    with pytest.raises(QsdError, match="began with other settings in the base YAML"):
        tune(killed, with_values(whole, {"model.learning_rate": 1e-3}), SPACE, 1, epochs=0)


def test_a_trial_without_signs_of_life_is_taken_up_again(tmp_path):
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s")
    storage = study._storage
    assert storage.get_heartbeat_interval() == 10
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    storage.get_heartbeat_stale_trial_callback()(study, study.trials[0])
    assert study.trials[1].state is optuna.trial.TrialState.WAITING
    assert study.trials[1].params == trial.params


def test_a_best_yaml_has_a_ranker_folder_of_its_own(base, tmp_path):
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "my study/1")
    tune(study, {**base, "out": "runs/ranker"}, SPACE, 1, epochs=0)
    write_results(study, {**base, "out": "runs/ranker"}, tmp_path / "out")
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["out"] == "runs/ranker-my-study-1-best"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_epoch": 3}, "max_epoch"),
        ({"max_epochs": "many"}, "max_epochs"),
        ({"precision": "bf16-mixed"}, "precision is bf16-mixed: the graph layers add up"),
    ],
)
def test_trainer_settings_that_fit_refuses(base, tmp_path, setting, message):
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s")
    with pytest.raises(QsdError, match=message) as told:
        tune(study, {**base, "trainer": {**base["trainer"], **setting}}, SPACE, 1)
    assert "\n" not in str(told.value)
    assert not study.trials


def test_a_trial_trains_as_its_base_says(base, tmp_path, monkeypatch):
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_spearman", "patience": 7}}
    wanted = {"limit_train_batches": 2, "accumulate_grad_batches": 2, "callbacks": [stop]}
    trainers = []
    real = tuning.RankerModule.on_fit_start
    monkeypatch.setattr(
        tuning.RankerModule, "on_fit_start", lambda self: trainers.append(self.trainer) or real(self)
    )
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s")
    tune(study, {**base, "trainer": {**base["trainer"], **wanted}}, SPACE, 1)
    (trainer,) = trainers
    assert (trainer.limit_train_batches, trainer.accumulate_grad_batches) == (2, 2)
    assert trainer.early_stopping_callback.patience == 7


_OPENS = """
import sys
from qsd.ranker.studies import open_study
sys.stdin.readline()
study = open_study(sys.argv[1], "s")
print([study.ask().suggest_float("x", 0, 1) for _ in range(3)])
"""


def test_processes_that_open_a_new_study_at_once_draw_other_points(tmp_path):
    words = [sys.executable, "-c", _OPENS, f"sqlite:///{tmp_path / 'study.db'}"]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], ends
    drawn = [point for out, _ in ends for point in json.loads(out)]
    assert len(set(drawn)) == 9


def test_one_process_is_reproduced_by_its_seed(tmp_path):
    drawn = [
        [open_study(f"sqlite:///{tmp_path / name}.db", "s", seed).ask().suggest_float("x", 0, 1)]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_study_of_few_labels(base, tmp_path, monkeypatch):
    """Its trials learn from few labels; what it writes learns from all, and nobody else may join."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = open_study(storage, "s", member_labels=[8, 16])
    seen = []
    real = tuning.StoreDataModule.setup
    monkeypatch.setattr(tuning.StoreDataModule, "setup", lambda *a, **k: seen.append(a[0]) or real(*a, **k))
    tune(study, base, SPACE, 1)
    (data,) = seen[0].stores
    assert [len(data.training_rows(member)) for member in range(4)] == [8, 16, 8, 16]
    write_results(study, base, tmp_path / "out")
    text = (tmp_path / "out" / "best.yaml").read_text()
    assert "of members with 8, 16 labels" in text
    assert yaml.safe_load(text)["data"] == base["data"]
    assert len(open_study(storage, "s", member_labels=[8, 16]).trials) == 1
    with pytest.raises(QsdError, match=r"learn from \[8, 16\] labels, not all"):
        open_study(storage, "s")
    old = optuna.create_study(storage=storage, study_name="old", direction="maximize")  # remembers no labels
    old.tell(old.ask(), 0.5)
    with pytest.raises(QsdError, match=r"learn from all labels, not \[8\]"):
        open_study(storage, "old", member_labels=[8])


def test_a_best_loses_with_no_number_of_labels(base, tmp_path):
    """Trials are bound by the first, which is the base; without a base nothing binds."""
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s", member_labels=[8, 16])
    space = [Dimension("model.responses.noise", "float", [1e-3, 0.5], log=True)]
    names = ["val_spearman_8", "val_spearman_16"]
    assert monitored(study) == names
    tune(study, with_values(base, {"model.responses.noise": 0.03}), space, 3, epochs=0)
    first, *others = study.trials
    assert first.constraints == {}
    assert base_trial(study) == first
    for trial in others:
        for name in names:
            assert trial.constraints[name] == first.user_attrs[name] - trial.user_attrs[name]
        assert trial.value == pytest.approx(mean_correlation([trial.user_attrs[name] for name in names]))
    better = optuna.trial.create_trial(
        params=first.params,
        distributions=first.distributions,
        value=0.9999,
        user_attrs={names[0]: first.user_attrs[names[0]] - 0.01, names[1]: 0.99999},
    )
    for name in names:
        better.set_constraint(name, first.user_attrs[name] - better.user_attrs[name])
    study.add_trial(better)
    assert loses(study, study.trials[-1])
    assert not loses(study, best_trial(study))
    write_results(study, base, tmp_path / "out")
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["loses"] for row in rows] == [str(loses(study, trial)) for trial in study.trials]
    assert float(rows[0]["val_spearman_16"]) == first.user_attrs["val_spearman_16"]

    unbound = open_study(f"sqlite:///{tmp_path / 'study.db'}", "unbound", member_labels=[8, 16])
    tune(unbound, base, space, 2, epochs=0)
    assert [trial.constraints for trial in unbound.trials] == [{}, {}]


def test_trials_without_training_compare_closed_forms(base, tmp_path, monkeypatch):
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", "s")
    modules = []
    real = tuning.RankerModule.on_fit_start
    monkeypatch.setattr(tuning.RankerModule, "on_fit_start", lambda self: modules.append(self) or real(self))
    tune(study, base, SPACE, 2, epochs=0)
    scores = [trial.value for trial in study.trials]
    assert scores[0] == scores[1]  # of a network nothing is left but its size
    assert scores[0] > 0.5
    assert all(not member.network.head[-1].weight.any() for module in modules for member in module.members)
    write_results(study, base, tmp_path / "out")
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["trainer"] == base["trainer"]


def test_shipped_families_say_all_that_a_study_varies():
    configs = shipped_root() / "lightning_configs"
    space = read_space(configs / "tune.yaml")
    for name in ("pixart", "pixart_sigma", "hunyuan", "sd15", "sdxl", "dit"):
        family = read_base(configs / f"{name}.yaml")
        for dimension in space:
            value = family
            for part in dimension.key.split("."):
                value = value[part]
            if dimension.kind == "choice":
                assert value in dimension.values
            else:
                assert dimension.values[0] <= value <= dimension.values[1]


def test_the_command_line(base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "space.yaml").write_text("model.learning_rate: {float: [1.0e-3, 1.0e-2], log: true}\n")
    words = "tune --config fit.yaml --space space.yaml --storage sqlite:///study.db --out tuned --trials"
    assert main([*words.split(), "1"]) == 0
    assert main([*words.split(), "2"]) == 0
    said = capsys.readouterr()
    assert "2 complete" in said.err
    assert "lightning fit --config tuned/best.yaml" in said.out
    assert yaml.safe_load(Path("tuned/best.yaml").read_text())["data"] == base["data"]
    assert main([*words.split(), "3", "--labels", "[8]"]) == 2
    assert "take another name" in capsys.readouterr().err
    few = ["--labels", "[8]", "--study", "few", "--epochs", "0"]
    assert main([*words.split(), "1", *few]) == 2
    assert "tuned/best.yaml: is there already, made of another study" in capsys.readouterr().err
    assert main([*words.split(), "1", *few, "--out", "few"]) == 0
    several = ["--labels", "[8, 16]", "--study", "several", "--epochs", "0", "--overwrite"]
    assert main([*words.split(), "1", *several]) == 0
    assert re.search(r" 8 ┃ +16 ┃", capsys.readouterr().err)  # a column each
    words += " 1 --out other --trials"
    Path("epochs.yaml").write_text("trainer.max_epochs: {choice: [1, 2]}\n")
    assert main([*words.replace("space.yaml", "epochs.yaml").split(), "3", "--epochs", "0"]) == 2
    assert "the space varies trainer.max_epochs" in capsys.readouterr().err
    assert main(["tune", "--config", "none.yaml", "--trials", "1"]) == 2
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    assert "Searches for better settings" in capsys.readouterr().out


def test_with_values_leaves_the_base_alone():
    base = {"model": {"network": {"width": 8}}}
    changed = with_values(base, {"model.network.width": 16, "model.learning_rate": 0.1})
    assert changed == {"model": {"network": {"width": 16}, "learning_rate": 0.1}}
    assert base == {"model": {"network": {"width": 8}}}


@pytest.mark.parametrize(
    "entry", [3, {"int": 4}, {"int": [1, 2, 3]}, {"choice": ["a"], "log": True}, {"set": [1]}]
)
def test_malformed_space(entry):
    with pytest.raises(QsdError, match=r"cannot read 'model\.x'"):
        Dimension.read("model.x", entry)


def test_shipped_spaces_read():
    everything, responses = (
        read_space(shipped_root() / "lightning_configs" / name)
        for name in ("tune.yaml", "tune_responses.yaml")
    )
    assert "model.network.conv" in {dimension.key for dimension in everything}
    assert responses == [d for d in everything if d.key.startswith("model.responses.")]


def test_unreadable(tmp_path):
    with pytest.raises(QsdError, match=r"no\.yaml: cannot be read"):
        read_base(tmp_path / "no.yaml")
    with pytest.raises(QsdError, match="cannot be opened"):
        open_study("nonsense", "s")
