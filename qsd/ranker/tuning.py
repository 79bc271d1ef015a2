"""Optuna studies over the ranker's architecture and hyper-parameters, on validation records only."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import optuna
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState
from optuna_integration import PyTorchLightningPruningCallback

from qsd.ranker.data import DEFAULT_FOLDS, StoreDataModule
from qsd.ranker.module import RankerModule, check_precision
from qsd.ranker.studies import LABELS, retry
from qsd.ranker.universal.data import UniversalDataModule
from qsd.ranker.universal.module import UniversalModule
from qsd.support.errors import QsdError, first_line
from qsd.support.yaml_files import read_yaml

MONITOR = "val_spearman"
_BASE = "base"
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
    base itself, if that says all that varies, and does not end before that was measured to the end; then the
    best of several ``member_labels`` is the best of the trials that do not lose to the base with any of them.
    The trainer of a trial takes what the base says, except that nothing is logged or saved.

    With ``ranker: universal`` in the base the score is the mean over denoisers of the correlation by the
    member that has not seen the denoiser, on its training and validation records: each is left out once.

    Args:
        study: from :func:`open_study`.
        base: the mapping of a ``fit`` YAML: ``seed_everything``, ``trainer``, ``data``, ``model``.
        space: what varies.
        trials: finished trials wanted in all; pruned ones count.
        on_trial: called after each trial of this process.
        epochs: of a trial, by default those of the base; with 0 the closed forms alone compete.

    Raises:
        QsdError: epochs that are negative or vary anyway, settings that the ranker or Lightning's trainer
            does not have, numbers of labels or no epochs for a universal ranker, or another base than the
            study began with.
    """
    if _is_universal(base) and (epochs == 0 or study.user_attrs[LABELS]):
        raise QsdError(
            "tune: a universal ranker has no closed form and learns from whole stores; leave out "
            "--epochs 0 and --labels"
        )
    if epochs is not None and epochs < 0:
        raise QsdError(f"tune: {epochs} epochs; give 0 (closed forms alone) or more")
    if epochs is not None and _EPOCHS in {dimension.key for dimension in space}:
        raise QsdError(f"tune: the space varies {_EPOCHS}; leave --epochs out or take another --space")
    start = {dimension.key: _value(base, dimension.key) for dimension in space}
    complete = None not in start.values()
    if complete:
        if study.user_attrs.get(_BASE, start) != start:
            raise QsdError(
                f"study {study.study_name}: began with other settings in the base YAML, "
                f"{study.user_attrs[_BASE]}; take another name"
            )
        study.set_user_attr(_BASE, start)
    learned = _few_labels(base, study.user_attrs[LABELS])
    if epochs is not None:
        learned = with_values(learned, {_EPOCHS: epochs})
    _trainer_settings(learned)

    def objective(trial: optuna.Trial) -> float:
        with _queued_if_stopped(trial):
            return _run(trial, learned, space)

    stop = MaxTrialsCallback(trials, states=_FINISHED)
    callbacks: list[Any] = [stop] if on_trial is None else [stop, on_trial]
    if complete and not study.trials:
        study.enqueue_trial(start, skip_if_exists=True)
    if len(study.get_trials(deepcopy=False, states=_FINISHED)) < trials:
        study.optimize(objective, callbacks=callbacks)
    if complete and trials:
        _measure_base(study, start, objective, callbacks[1:])


def _measure_base(
    study: optuna.Study,
    start: Mapping[str, Any],
    objective: Callable[[optuna.Trial], float],
    callbacks: list[Any],
) -> None:
    """Measures the base's own settings, if the trial that was to do it was stopped, killed, or is another's.

    Raises:
        QsdError: their score is no number.
    """
    for _ in range(len(study.trials) + 1):  # others may wait before it
        if base_trial(study) is not None:
            return
        if not any(_queued(trial) == start for trial in study.get_trials(deepcopy=False)):
            study.enqueue_trial(dict(start))
        study.optimize(objective, n_trials=1, callbacks=callbacks)
    if base_trial(study) is None:
        raise QsdError(f"study {study.study_name}: the base YAML's own settings give no score; mend the YAML")


def _queued(trial: FrozenTrial) -> Mapping[str, Any] | None:
    """The settings of a trial that waits."""
    if trial.state is not TrialState.WAITING:
        return None
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params") or trial.params
    return fixed


@contextlib.contextmanager
def _queued_if_stopped(trial: optuna.Trial) -> Iterator[None]:
    """Queues a trial that is stopped inside once more."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        retry(trial.study, trial.study.get_trials(deepcopy=False)[trial.number])
        if isinstance(stop, SystemExit):  # Lightning's answer to Ctrl-C, which Optuna does not look for
            trial.study.tell(trial.number, state=TrialState.FAIL)
        raise


def _few_labels(base: Mapping[str, Any], member_labels: Sequence[int]) -> Mapping[str, Any]:
    """The base with as many members for each number of labels as it has folds."""
    if not member_labels:
        return base
    folds = _value(base, "data.folds") or DEFAULT_FOLDS
    return with_values(
        base, {f"data.{LABELS}": list(member_labels), "data.folds": folds * len(member_labels)}
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


def monitored(study: optuna.Study) -> list[str]:
    """Names of a trial's scores: of each number of labels, if the study has several."""
    labels = study.user_attrs[LABELS]
    return [f"{MONITOR}_{number}" for number in labels] if len(labels) > 1 else []


def base_trial(study: optuna.Study) -> FrozenTrial | None:
    """The trial that measured the base's own settings; None if none has finished, or the base lacks some."""
    start = study.user_attrs.get(_BASE)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial for trial in complete if trial.params == start), None)


def loses(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial is worse than the base with some number of labels."""
    base = base_trial(study)
    if base is None:
        return False
    return any(
        trial.user_attrs[name] < base.user_attrs[name]
        for name in monitored(study)
        if name in trial.user_attrs and name in base.user_attrs
    )


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The finished trial of the best score among those that do not lose to the base.

    Raises:
        QsdError: no trial has finished unpruned.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise QsdError(f"study {study.study_name}: no trial has finished yet; run more")
    return max((trial for trial in complete if not loses(study, trial)), key=lambda trial: trial.value or 0.0)


def _run(trial: optuna.Trial, base: Mapping[str, Any], space: list[Dimension]) -> float:
    config = with_values(base, {dimension.key: dimension.suggest(trial) for dimension in space})
    lightning.seed_everything(config.get("seed_everything", 0), verbose=False)
    try:
        module, data = _built(config)
    except (TypeError, KeyError) as error:
        raise QsdError(
            f"tune: {first_line(error)}; check the keys of the base YAML and the search space"
        ) from error
    settings = _trainer_settings(config)
    if trial.params != trial.study.user_attrs.get(_BASE):  # which is measured to the end
        settings["callbacks"].append(PyTorchLightningPruningCallback(trial, MONITOR))
    runner = lightning.Trainer(**settings)
    runner.fit(module, datamodule=data)
    runner.validate(module, datamodule=data, verbose=False)
    first = base_trial(trial.study)
    for name in monitored(trial.study):
        found = float(runner.callback_metrics[name])
        trial.set_user_attr(name, found)
        if first is not None:  # while another process is still at it, the sampler knows of no bound
            trial.set_constraint(name, first.user_attrs[name] - found)
    return float(runner.callback_metrics[MONITOR])


def _is_universal(config: Mapping[str, Any]) -> bool:
    return config.get("ranker") == "universal"


def _built(config: Mapping[str, Any]) -> tuple[lightning.LightningModule, lightning.LightningDataModule]:
    """What a ``fit`` YAML of either kind trains, and on what."""
    model, data = config.get("model", {}), config["data"]
    if _is_universal(config):
        return UniversalModule(**model), UniversalDataModule(**data)
    return RankerModule(**model), StoreDataModule(**data)


def _trainer_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Lightning's trainer takes from a ``fit`` YAML, its classes built; nothing is logged or saved.

    Raises:
        QsdError: the trainer knows no such setting, or a value is not of its type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(lightning.Trainer, "trainer", instantiate=False, sub_configs=True)
    try:
        parsed = parser.instantiate_classes(parser.parse_object({"trainer": config.get("trainer") or {}}))
    except (ArgumentError, TypeError, ValueError) as error:
        raise QsdError(f"tune: the base YAML's trainer: {first_line(error)}") from error
    settings = dict(vars(parsed["trainer"]))
    check_precision(settings["precision"])
    unlogged = (Checkpoint, LearningRateMonitor)  # these refuse a trainer that logs or saves nothing
    given = settings["callbacks"] or []
    callbacks = given if isinstance(given, list) else [given]
    return settings | {
        "callbacks": [callback for callback in callbacks if not isinstance(callback, unlogged)],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }


def read_base(path: str | Path) -> dict[str, Any]:
    """Reads the base of a study: a YAML file that ``lightning fit`` takes, over the files that it builds on.

    Raises:
        QsdError: it is missing or no YAML mapping.
    """
    return read_yaml(path)
