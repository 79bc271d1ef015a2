"""What an Optuna study leaves behind: the best settings as YAML, a table of trials, plots."""

import csv
import functools
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import yaml
from optuna.trial import TrialState

from qsd.ranker.studies import LABELS
from qsd.ranker.tuning import MONITOR, best_trial, loses, monitored, with_values
from qsd.support.documents import read_json, write_json
from qsd.support.folders import replacing

_FACTS, _FORMAT = "study.json", "qsd-study"
_PLOTS = ("history", "parallel", "importances")


def write_results(
    study: optuna.Study, base: Mapping[str, Any], folder: str | Path, facts: Mapping[str, Any] | None = None
) -> None:
    """Writes ``best.yaml`` (for `lightning fit --config`), ``trials.csv`` and Optuna's plots, in one step.

    A fit of ``best.yaml`` writes to a ranker folder of its own, ``runs/ranker-STUDY-best``.

    Args:
        study: with finished trials.
        base: what every trial started from.
        folder: destination.
        facts: what the study was of, for :func:`facts_of`.

    Raises:
        QsdError: no trial has finished unpruned.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = best_trial(study)
    labels = study.user_attrs[LABELS]
    learned = f" of members with {', '.join(map(str, labels))} labels" if labels else ""
    remark = f"# best of {len(study.trials)} trials, validation Spearman{learned} {best.value:.4f}\n"
    out = f"runs/ranker-{re.sub(r'[^A-Za-z0-9_.-]+', '-', study.study_name)}-best"
    chosen = with_values(base, {**best.params, "out": out})
    with replacing(folder, _is_result) as new:
        text = remark + yaml.safe_dump(chosen, sort_keys=False)
        (new / "best.yaml").write_text(text, encoding="utf-8")
        write_json(new / _FACTS, {"format": _FORMAT, "version": 1, **(facts or {})})
        _write_csv(study, new / "trials.csv")
        _write_plots(study, new, len(complete))


def facts_of(folder: Path) -> dict[str, Any]:
    """What the study was of whose results stand in a folder.

    Raises:
        QsdError: nothing says it.
    """
    return read_json(folder / _FACTS, _FORMAT, 1, remedy="give another folder")


def _is_result(name: str) -> bool:
    return name in ("best.yaml", "trials.csv", _FACTS, *(f"{plot}.png" for plot in _PLOTS))


def _write_csv(study: optuna.Study, path: Path) -> None:
    keys = sorted({key for trial in study.trials for key in trial.params})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", MONITOR, *monitored(study), "loses", "seconds", *keys])
        for trial in study.trials:
            seconds = trial.duration.total_seconds() if trial.duration else ""
            scores = [trial.value, *(trial.user_attrs.get(name, "") for name in monitored(study))]
            parameters = [trial.params.get(key, "") for key in keys]
            state = trial.state.name.lower()
            writer.writerow([trial.number, state, *scores, loses(study, trial), seconds, *parameters])


def _write_plots(study: optuna.Study, folder: Path, num_complete: int) -> None:
    from optuna.visualization import matplotlib as plots  # imports pyplot, so not before a plot is wanted

    matplotlib.use("Agg")
    keys = sorted(best_trial(study).params)
    drawn: dict[str, Callable[..., Any]] = {
        "history": plots.plot_optimization_history,
        "parallel": functools.partial(plots.plot_parallel_coordinate, params=keys),
    }
    if num_complete > 2 and len({trial.value for trial in study.trials}) > 1:
        drawn["importances"] = plots.plot_param_importances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, plot in drawn.items():
            axes = plot(study, target_name="validation Spearman")
            if name == "parallel":  # Optuna cuts long names and crowds the axes
                axes.set_xticks(range(len(keys) + 1), ["validation Spearman", *map(_last_two, keys)])
                axes.figure.set_size_inches(3 + 1.8 * len(keys), 6)
            axes.figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            matplotlib.pyplot.close(axes.figure)


def _last_two(key: str) -> str:
    """The end of a dotted key, on two lines."""
    return "\n".join(key.split(".")[-2:])
