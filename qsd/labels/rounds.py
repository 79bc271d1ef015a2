"""Verify and go on: measure what a search found under fresh noise, learn from it, search again."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from qsd.labels.measurer import Job
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.responses import ResponseSettings
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.search.front import Front
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

FIRST_SEED = 1_000
"""Noise seeds from here on are fresh: labels use small ones."""
Searching = Callable[[Ranker, int], Front]
"""Searches with a ranker; the number is that of the round."""
Measure = Callable[[Sequence[Job]], Any]


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round found. n configs, Z noise seeds.

    Attributes:
        front: searched with the ranker of this round; its measured members say so.
        members: positions of the measured members, best predicted first.
        predicted: float64 [n], posterior mean of the target.
        measured: float64 [n, Z], the target under each noise seed.
        reused: measurements that the store had already.
    """

    front: Front
    members: list[int]
    predicted: np.ndarray
    measured: np.ndarray
    reused: int = 0

    @property
    def optimism(self) -> np.ndarray:
        """Predicted minus measured target, float64 [n]: positive where the search was flattered."""
        return self.predicted - self.measured.mean(axis=1)

    @property
    def winner(self) -> int:
        """Position, among the measured, of the one that measured best."""
        return int(self.measured.mean(axis=1).argmax())


def verify_rounds(
    store: Store,
    ranker: Ranker,
    search: Searching,
    run: Measure,
    *,
    verify: int,
    rounds: int,
    seeds: int = 2,
    settings: ResponseSettings | None = None,
    progress: Progress | None = None,
) -> tuple[list[Round], Ranker]:
    """Searches, measures the front's best, appends the records, refits and searches again.

    Noise seeds follow those that the ranker has learned from. So a call that was stopped, when it is made
    again with the same ranker, finds the same configs and takes from the store what it had measured of them.

    Args:
        store: the ranker's store, inside :meth:`qsd.store.Store.writing`; records of chosen configs have
            negative indices and are learned from.
        ranker: to begin with.
        search: one search.
        run: measures jobs.
        verify: configs measured per round.
        rounds: how many.
        seeds: fresh noise seeds per config; at least 2 for an interval.
        settings: of the processes that are refitted.
        progress: called after every measurement.

    Returns:
        What each round found, and the ranker that has learned from all of it.

    Raises:
        QsdError: fewer than one config, round or seed.
    """
    if min(verify, rounds, seeds) < 1:
        raise QsdError(f"verify {verify}, rounds {rounds}, seeds {seeds}: each must be at least 1")
    target = Target(ranker.target)
    found: list[Round] = []
    last = ranker.last_seed
    next_seed = max(FIRST_SEED, 1 + (int(store.records.noise_seed.max(initial=0)) if last is None else last))
    for number in range(rounds):
        front = search(ranker, number)
        table = list(map(str, store.header.options))
        places = np.array([table.index(name) for name in front.meta.option_names])
        members = np.argsort(-front.score, kind="stable")[:verify].tolist()
        noise = [next_seed + place for place in range(seeds)]
        next_seed += seeds
        jobs = [
            Job(place, front.configs[member], seed) for place, member in enumerate(members) for seed in noise
        ]
        measured = np.full((len(members), seeds), np.nan)
        labels: list[list[dict[str, float]]] = [[] for _ in members]
        known = _measured_before(store, noise)
        again = [(job, known.get((_placed(places, job), job.noise_seed))) for job in jobs]
        old = [(job, values, None) for job, values in again if values]
        new = [job for job, values in again if not values]
        for done, (job, values, seconds) in enumerate(itertools.chain(old, run(new) if new else ())):
            if seconds is not None:
                _append(store, places[job.config.astype(np.int64)], values, job.noise_seed, seconds)
            labels[job.index].append(values)
            value = _value(target, front, members[job.index], values)
            measured[job.index, noise.index(job.noise_seed)] = value
            if progress:
                message = f"round {number + 1}: {ranker.target} {value:.4g}"
                progress(number * len(jobs) + done + 1, rounds * len(jobs), message)
        for place, member in enumerate(members):
            front.measured[member] = summary(labels[place], measured[place], noise)
        found.append(Round(front, members, front.predicted[members], measured, len(old)))
        ranker = refitted(ranker, _before(store, next_seed), settings)
    return found, ranker


def _measured_before(store: Store, seeds: Sequence[int]) -> dict[tuple[bytes, int], dict[str, float]]:
    """Labels of the chosen configs that a store knows under these noise seeds, by config and seed."""
    records, names = store.records, store.header.label_names
    images = store.header.conditions.get("num_images", 0)
    rows = (records.index < 0) & np.isin(records.noise_seed, seeds) & (records.activation == 0).all(axis=1)
    rows &= (records.num_images == images) & np.isfinite(records.labels).all(axis=1)
    return {
        (records.config[row].tobytes(), int(records.noise_seed[row])): dict(
            zip(names, records.labels[row].tolist(), strict=True)
        )
        for row in np.flatnonzero(rows)
    }


def _placed(places: np.ndarray, job: Job) -> bytes:
    """A job's config as the store's records have it."""
    return places[job.config.astype(np.int64)].astype(np.int8).tobytes()


def _append(
    store: Store, config: np.ndarray, labels: dict[str, float], noise_seed: int, seconds: float
) -> None:
    """Appends what was measured of a chosen config, as far as the store has its labels."""
    index = min(int(store.records.index.min(initial=0)), 0) - 1
    known = {name: value for name, value in labels.items() if name in store.header.label_names}
    store.append(index=index, config=config, labels=known, noise_seed=noise_seed, seconds=seconds)


def _before(store: Store, next_seed: int) -> Store:
    """The store without the configs that were chosen in later rounds of a call that was stopped."""
    records = store.records
    later = (records.index < 0) & (records.noise_seed >= next_seed)
    return Store(store.path, store.header, records.select(~later)) if later.any() else store


def refitted(ranker: Ranker, store: Store, settings: ResponseSettings | None = None) -> Ranker:
    """The ranker with its closed forms fitted to all that a store knows now; networks stay as they are."""
    folds = max(len(ranker.members), 1)
    data = prepare(store, Target(ranker.target), folds=folds)
    labels = tuple(ranker.labels)
    data = dataclasses.replace(data, predicted_labels=labels)
    return ranker.refitted(
        data.header, fit_posteriors(ranker.members, data, ranker.store, settings), data.unseen
    )


def summary(labels: Sequence[dict[str, float]], values: np.ndarray, seeds: Sequence[int]) -> dict[str, Any]:
    """Mean of every label over seeds, and the target with its 90 % interval (Student's t)."""
    row: dict[str, Any] = {name: float(np.mean([one[name] for one in labels])) for name in labels[0]}
    row["target"] = float(values.mean())
    if len(values) > 1:
        reach = float(t.ppf(0.95, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
        row["target_interval"] = [row["target"] - reach, row["target"] + reach]
    return row | {"seeds": list(seeds)}


def _value(target: Target, front: Front, member: int, labels: dict[str, float]) -> float:
    """The target of one measurement."""
    quantities = {"avg_bits": front.avg_bits[member], "bytes": front.num_bytes[member], **labels}
    missing = [name for name in target.names if name not in quantities]
    if missing:
        raise QsdError(f"target {target.text!r}: no measured {missing[0]!r}; use the settings of the store")
    return float(target({name: np.array(float(quantities[name])) for name in target.names}))
