"""Optuna studies in a storage: opened by several processes at once, and gone on with after any stop."""

import os
import random
import socket
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from qsd.support.errors import QsdError, first_line

LABELS = "member_labels"
_HEARTBEAT, _GRACE = 10, 60  # seconds between signs of life, and of silence until a trial counts as killed
_MOST_RETRIES = 3
_LOCKED = 60  # seconds that a process waits while others write to one SQLite file
_OPENINGS = 40
_RACES = ("already exists", "locked", "unique", "duplicate", "integrity")


def open_study(storage: str, name: str, seed: int = 0, member_labels: Sequence[int] = ()) -> optuna.Study:
    """Opens or resumes a study; several processes may hold one storage at once.

    Every process that opens the study takes the next number in a study of its own, ``NAME (processes)``; its
    sampler is seeded by ``seed`` and that number, so no two draw the same points, and a study of one process
    is reproduced by its seed. Trials give a sign of life every 10 seconds; one that has given none for a
    minute counts as killed and is queued again, three times at most.

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
        study, number = _opened(storage, name)
    except Exception as error:  # SQLAlchemy raises many kinds; all mean "cannot open"
        raise QsdError(
            f"{storage}: cannot be opened ({first_line(error)}); use for example sqlite:///study.db"
        ) from error
    wanted = list(member_labels)
    begun = study.user_attrs.get(LABELS, [] if study.trials else wanted)  # studies of old knew only all
    if begun != wanted:
        raise QsdError(
            f"study {name}: its trials learn from {begun or 'all'} labels, not {wanted or 'all'}; "
            "take another name"
        )
    study.set_user_attr(LABELS, wanted)
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=own, multivariate=True, constant_liar=True)
    return study


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues the settings of a trial that was stopped or killed once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=_MOST_RETRIES)(study, trial)


def _opened(url: str, name: str) -> tuple[optuna.Study, int]:
    """The study, and the number of this process in it; again while others are creating the same."""
    for attempt in range(_OPENINGS):
        try:
            storage = _storage(url)
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
            )
            return study, _number(storage, name)
        except (DBAPIError, StorageInternalError, DuplicatedStudyError) as error:
            text = f"{type(error).__name__} {error} {error.__cause__}".lower()
            if attempt == _OPENINGS - 1 or not any(race in text for race in _RACES):
                raise
            time.sleep(random.uniform(0.02, 0.2))
    raise AssertionError


def _storage(url: str) -> BaseStorage:
    """The storage with signs of life, in which a SQLite file waits for other writers."""
    sqlite = make_url(url).get_backend_name() == "sqlite"
    connection: dict[str, Any] = {"connect_args": {"timeout": _LOCKED}} if sqlite else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url,
            engine_kwargs=connection,
            heartbeat_interval=_HEARTBEAT,
            grace_period=_GRACE,
            heartbeat_stale_trial_callback=retry,
        )


def _number(storage: BaseStorage, name: str) -> int:
    """How many processes opened the study before this one, counted by the storage in one step."""
    processes = optuna.create_study(
        storage=storage, study_name=f"{name} (processes)", direction="maximize", load_if_exists=True
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")  # nothing is optimized here
        entry = processes.ask()
    for key, value in {"host": socket.gethostname(), "process": os.getpid(), "time": time.time()}.items():
        entry.set_user_attr(key, value)
    processes.tell(entry, state=TrialState.FAIL)
    return entry.number
