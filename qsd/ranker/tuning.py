"""Optuna studies over the ranker's architecture and hyper-parameters, on validation records only."""

import copy
import csv
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import matplotlib
import optuna
import yaml
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState
from optuna_integration import PyTorchLightningPruningCallback

from qsd.ranker.data import DEFAULT_FOLDS, StoreDataModule
from qsd.ranker.module import RankerModule
from qsd.support.errors import QsdError, first_line
from qsd.support.files import atomic
from qsd.support.yaml_files import read_yaml

MONITOR = "val_spearman"
_LABELS = "member_labels"
_EPOCHS = "trainer.max_epochs"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_SPACE_GRAMMAR = (
    "write `model.network.width: {int: [32, 96], step: 16}`, "
    "`model.learning_rate: {float: [5.0e-4, 1.0e-2], log: true}` or "
    "`model.network.conv: {choice: [gatv2, sage]}`"
)


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One hyper-parameter of a search space.

    Attributes:
        key: dotted place in the YAML of ``fit``, such as ``model.network.width``.
        kind: "int", "float" or "choice".
        values: [low, high], or the choices.
        log: whether numbers are drawn uniformly in their logarithm.
        step: grid of an int or float, None for none (1 for int).
    """

    key: str
    kind: str
    values: list[Any]
    log: bool = False
    step: float | None = None

    @classmethod
    def read(cls, key: str, entry: Any) -> "Dimension":
        """Reads one entry of a search-space YAML.

        Raises:
            QsdError: it is none of the three forms.
        """
        if isinstance(entry, Mapping):
            rest = dict(entry)
            kind = next((kind for kind in ("int", "float", "choice") if kind in rest), None)
            values = rest.pop(kind, None) if kind else None
            allowed = {"int": {"log", "step"}, "float": {"log", "step"}, "choice": set()}.get(
                str(kind), set()
            )
            if isinstance(values, list) and set(rest) <= allowed and (kind == "choice" or len(values) == 2):
                return cls(key, str(kind), values, **rest)
        raise QsdError(f"search space: cannot read {key!r}: {entry!r}; {_SPACE_GRAMMAR}")

    def suggest(self, trial: optuna.Trial) -> Any:
        """Draws a value in a trial."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.key, self.values)
        low, high = self.values
        if self.kind == "int":
            return trial.suggest_int(self.key, int(low), int(high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, float(low), float(high), step=self.step, log=self.log)


def read_space(path: str | Path) -> list[Dimension]:
    """Reads a search space: a YAML mapping of dotted keys to ranges.

    Raises:
        QsdError: the file is missing, no such mapping, or an entry is malformed.
    """
    document = read_yaml(path)
    return [Dimension.read(key, entry) for key, entry in document.items()]


def open_study(storage: str, name: str, seed: int = 0, member_labels: Sequence[int] = ()) -> optuna.Study:
    """Opens or resumes a study; several processes may hold one storage at once.

    Args:
        storage: such as ``sqlite:///study.db``.
        name: of the study inside the storage.
        seed: of the sampler; a resumed study draws new points.
        member_labels: numbers of labels that the members of a trial learn from (``member_labels`` of
            :class:`qsd.ranker.data.StoreDataModule`), as many members for each as the base configuration has
            folds; empty for all. The study remembers it.

    Raises:
        QsdError: the storage cannot be opened, or the study was begun with other ``member_labels``.
    """
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        )
    except Exception as error:  # SQLAlchemy raises many kinds; all mean "cannot open"
        raise QsdError(
            f"{storage}: cannot be opened ({first_line(error)}); use for example sqlite:///study.db"
        ) from error
    wanted = list(member_labels)
    begun = study.user_attrs.get(_LABELS, [] if study.trials else wanted)  # studies of old knew only all
    if begun != wanted:
        raise QsdError(
            f"study {name}: its trials learn from {begun or 'all'} labels, not {wanted or 'all'}; "
            "take another name"
        )
    study.set_user_attr(_LABELS, wanted)
    # a process that joins or resumes must not repeat the points of the first
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), multivariate=True, constant_liar=True
    )
    return study


def tune(
    study: optuna.Study,
    base: Mapping[str, Any],
    space: list[Dimension],
    trials: int,
    on_trial: Callable[[optuna.Study, FrozenTrial], None] | None = None,
    epochs: int | None = None,
) -> None:
    """Runs trials until the study holds so many finished ones, counting those of other processes.

    A trial trains with the base configuration and its own values; its score is the Spearman correlation over
    all training and validation records, each predicted by the members that did not learn from it, once the
    share of the network's correction is set; with several ``member_labels`` the mean of the correlations for
    each (:func:`qsd.ranker.metrics.mean_correlation`). Test records are never read. A study begins with the
    base itself, if that says all that varies; then the best of several ``member_labels`` is the best of the
    trials that do not lose to the base with any of them.

    Args:
        study: from :func:`open_study`.
        base: the mapping of a ``fit`` YAML: ``seed_everything``, ``trainer``, ``data``, ``model``.
        space: what varies.
        trials: finished trials wanted in all; pruned ones count.
        on_trial: called after each trial of this process.
        epochs: of a trial, by default those of the base; with 0 the closed forms alone compete.

    Raises:
        QsdError: epochs that are negative or vary anyway, or settings that the ranker does not have.
    """
    if epochs is not None and epochs < 0:
        raise QsdError(f"tune: {epochs} epochs; give 0 (closed forms alone) or more")
    if epochs is not None and _EPOCHS in {dimension.key for dimension in space}:
        raise QsdError(f"tune: the space varies {_EPOCHS}; leave --epochs out or take another --space")
    if len(study.get_trials(deepcopy=False, states=_FINISHED)) >= trials:
        return
    start = {dimension.key: _value(base, dimension.key) for dimension in space}
    if not study.trials and None not in start.values():
        study.enqueue_trial(start, skip_if_exists=True)
    callbacks: list[Any] = [MaxTrialsCallback(trials, states=_FINISHED)]
    if on_trial is not None:
        callbacks.append(on_trial)
    learned = _few_labels(base, study.user_attrs[_LABELS])
    if epochs is not None:
        learned = with_values(learned, {_EPOCHS: epochs})
    study.optimize(lambda trial: _run(trial, learned, space, start), callbacks=callbacks)


def _few_labels(base: Mapping[str, Any], member_labels: Sequence[int]) -> Mapping[str, Any]:
    """The base with as many members for each number of labels as it has folds."""
    if not member_labels:
        return base
    folds = _value(base, "data.folds") or DEFAULT_FOLDS
    return with_values(
        base, {f"data.{_LABELS}": list(member_labels), "data.folds": folds * len(member_labels)}
    )


def with_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping in which dotted keys have new values."""
    changed = copy.deepcopy(dict(base))
    for key, value in values.items():
        *parents, leaf = key.split(".")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return changed


def _value(base: Mapping[str, Any], key: str) -> Any:
    """What a nested mapping has at a dotted key, None if nothing."""
    place: Any = base
    for part in key.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def write_results(study: optuna.Study, base: Mapping[str, Any], folder: str | Path) -> None:
    """Writes ``best.yaml`` (for `lightning fit --config`), ``trials.csv`` and Optuna's plots.

    Raises:
        QsdError: no trial has finished unpruned.
    """
    folder = Path(folder)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise QsdError(f"study {study.study_name}: no trial has finished yet; run more")
    with atomic(folder / "best.yaml") as temporary:
        labels = study.user_attrs[_LABELS]
        learned = f" of members with {', '.join(map(str, labels))} labels" if labels else ""
        remark = (
            f"# best of {len(study.trials)} trials, validation Spearman{learned} {study.best_value:.4f}\n"
        )
        temporary.write_text(remark + yaml.safe_dump(with_values(base, study.best_params), sort_keys=False))
    _write_csv(study, folder / "trials.csv")
    _write_plots(study, folder, len(complete))


def monitored(study: optuna.Study) -> list[str]:
    """Names of a trial's scores: of each number of labels, if the study has several."""
    labels = study.user_attrs[_LABELS]
    return [f"{MONITOR}_{number}" for number in labels] if len(labels) > 1 else []


def loses(trial: FrozenTrial) -> bool:
    """Whether a trial is worse than the base with some number of labels."""
    return any(value > 0 for value in trial.constraints.values())


def _run(
    trial: optuna.Trial, base: Mapping[str, Any], space: list[Dimension], start: Mapping[str, Any]
) -> float:
    config = with_values(base, {dimension.key: dimension.suggest(trial) for dimension in space})
    lightning.seed_everything(config.get("seed_everything", 0), verbose=False)
    try:
        module, data = RankerModule(**config.get("model", {})), StoreDataModule(**config["data"])
    except (TypeError, KeyError) as error:
        raise QsdError(
            f"tune: {first_line(error)}; check the keys of the base YAML and the search space"
        ) from error
    trainer = config.get("trainer", {})
    kept = ("max_epochs", "accelerator", "devices", "gradient_clip_val", "check_val_every_n_epoch")
    runner = lightning.Trainer(
        **{key: trainer[key] for key in kept if key in trainer},
        callbacks=[PyTorchLightningPruningCallback(trial, MONITOR)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    runner.fit(module, datamodule=data)
    runner.validate(module, datamodule=data, verbose=False)
    for name in monitored(trial.study):
        trial.set_user_attr(name, float(runner.callback_metrics[name]))
    first = trial.study.get_trials(deepcopy=False)[0]
    if first.params == start:
        for name, found in trial.user_attrs.items():
            # a first trial that another process is still at sets no bound
            trial.set_constraint(name, first.user_attrs.get(name, found) - found)
    return float(runner.callback_metrics[MONITOR])


def read_base(path: str | Path) -> dict[str, Any]:
    """Reads the base of a study: a YAML file that ``lightning fit`` takes, over the files that it builds on.

    Raises:
        QsdError: it is missing or no YAML mapping.
    """
    return read_yaml(path)


def _write_csv(study: optuna.Study, path: Path) -> None:
    keys = sorted({key for trial in study.trials for key in trial.params})
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", MONITOR, *monitored(study), "loses", "seconds", *keys])
        for trial in study.trials:
            seconds = trial.duration.total_seconds() if trial.duration else ""
            scores = [trial.value, *(trial.user_attrs.get(name, "") for name in monitored(study))]
            parameters = [trial.params.get(key, "") for key in keys]
            state = trial.state.name.lower()
            writer.writerow([trial.number, state, *scores, loses(trial), seconds, *parameters])


def _write_plots(study: optuna.Study, folder: Path, num_complete: int) -> None:
    from optuna.visualization import matplotlib as plots  # imports pyplot, so not before a plot is wanted

    matplotlib.use("Agg")
    keys = sorted(study.best_params)
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
