"""Verify and go on: measure what a search found under fresh noise, learn from it, search again."""

import dataclasses
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
    """

    front: Front
    members: list[int]
    predicted: np.ndarray
    measured: np.ndarray

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
    next_seed = max([FIRST_SEED, *(store.records.noise_seed + 1).tolist()])
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
        for done, (job, values, seconds) in enumerate(run(jobs)):
            index = min(int(store.records.index.min(initial=0)), 0) - 1
            known = {name: value for name, value in values.items() if name in store.header.label_names}
            config = places[job.config.astype(np.int64)]
            store.append(index=index, config=config, labels=known, noise_seed=job.noise_seed, seconds=seconds)
            labels[job.index].append(values)
            measured[job.index, noise.index(job.noise_seed)] = _value(
                target, front, members[job.index], values
            )
            if progress:
                value = measured[job.index, noise.index(job.noise_seed)]
                message = f"round {number + 1}: {ranker.target} {value:.4g}"
                progress(number * len(jobs) + done + 1, rounds * len(jobs), message)
        for place, member in enumerate(members):
            front.measured[member] = summary(labels[place], measured[place], noise)
        found.append(Round(front, members, front.predicted[members], measured))
        ranker = refitted(ranker, store, settings)
    return found, ranker


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
