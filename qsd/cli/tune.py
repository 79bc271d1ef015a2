"""``tune``: an Optuna study over the ranker, with a live table."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import optuna
from jsonargparse.typing import NonNegativeInt, PositiveInt
from optuna.trial import FrozenTrial
from rich.live import Live
from rich.table import Table

from qsd.cli.console import console, messages, run_function
from qsd.cli.overwriting import check_replaceable
from qsd.ranker.studies import open_study
from qsd.ranker.study_results import facts_of, write_results
from qsd.ranker.tuning import (
    MONITOR,
    best_trial,
    loses,
    monitored,
    read_base,
    read_space,
    tune,
)
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

_SHOWN = 10


def run(args: Sequence[str]) -> None:
    """Runs ``tune``.

    Args:
        args: the command line, verb first.
    """
    run_function(run_tune, args)


def run_tune(
    *,
    config: str,
    space: str = "tune.yaml",
    trials: PositiveInt = 50,
    storage: str = "sqlite:///study.db",
    study: str = "qsd",
    out: str = "runs/tune",
    labels: list[int] | None = None,
    epochs: NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    overwrite: bool = False,
) -> None:
    """Searches for better settings of `fit` on validation records; run again to resume, or twice at once.

    Args:
        config: YAML of `fit` that every trial starts from.
        space: YAML that names what varies.
        trials: finished trials wanted in the study, over all processes.
        storage: where the study lives.
        study: its name in there.
        out: folder for best.yaml, trials.csv and the plots.
        labels: such as '[50, 100, 200]': members learn from so many labels, in turns, and are scored on all
            others, so the study finds what is best while labels are few; by default from all but their fold.
            The best is the best on average of those that lose to the YAML's settings with none of these.
        epochs: of a trial, by default those of the YAML; 0 compares closed forms alone, in seconds, without
            training the network (--space tune_responses.yaml).
        seed: of the sampler.
        overwrite: replace the results of another study, YAML or space; those of the same are replaced anyway.
    """
    base, dimensions = read_base(find(config)), read_space(find(space))
    plain = json.loads(json.dumps(base, default=str))
    facts = {"study": study, "YAML": plain, "space": read_yaml(find(space))}
    check_replaceable(Path(out) / "best.yaml", facts, lambda: facts_of(Path(out)), overwrite=overwrite)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    opened = open_study(storage, study, seed, labels or [])
    with Live(console=messages, auto_refresh=False) as live:  # its table comes with the first trial

        def show(current: optuna.Study, trial: FrozenTrial) -> None:
            live.update(_table(current, trials), refresh=True)

        tune(opened, base, dimensions, trials, show, epochs)
    write_results(opened, base, out, facts)
    console.print(
        f"best validation Spearman {best_trial(opened).value:.4f}; "
        f"lightning fit --config {Path(out) / 'best.yaml'}"
    )


def _table(study: optuna.Study, wanted: int) -> Table:
    """The best finished trials, and how many there are of which state."""
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name.lower() for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "running"))
    table = Table(title=f"{study.study_name}: {counts}; {wanted} wanted")
    table.add_column("trial", justify="right")
    names = [MONITOR, *monitored(study)]
    for name in names:
        *words, last = name.split("_")
        heading = f"{last} labels" if last.isdigit() else " ".join([*words, last])
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("settings")
    complete = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    if any(loses(study, trial) for trial in complete):
        table.caption = "dim: loses to the YAML's settings with some number of labels, so never the best"
    for trial in sorted(complete, key=lambda trial: (loses(study, trial), -(trial.value or 0)))[:_SHOWN]:
        settings = ", ".join(
            f"{key.rpartition('.')[2]} {_short(value)}" for key, value in trial.params.items()
        )
        scores = {**trial.user_attrs, MONITOR: trial.value}
        cells = [f"{scores[name]:.4f}" if name in scores else "" for name in names]
        table.add_row(str(trial.number), *cells, settings, style="dim" if loses(study, trial) else None)
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
