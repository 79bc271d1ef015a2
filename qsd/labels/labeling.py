"""Labels random configs into a store, one durable record at a time."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsd.bank import Bank
from qsd.configs.activations import sample_activations
from qsd.configs.sampling import sample_configs
from qsd.configs.schedule import Schedule
from qsd.denoisers.identity import check_same_denoiser
from qsd.evaluation.evaluator import LABELS
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.conditions import check_conditions
from qsd.labels.influence import FEW, moved_by, say_if_unmoved
from qsd.labels.leases import Claims
from qsd.labels.leaving_out import Failure, check_complete
from qsd.labels.measurer import Job, Measured
from qsd.labels.watching import Watch
from qsd.quantizers.activations import parse_activations
from qsd.store import SPLITS, Header, Label, Places, Store, grown, split_of_index
from qsd.support.progress import Progress

Run = Callable[[Iterable[Job]], Iterator[Measured]]
"""Measures jobs, here (:meth:`Measurer.run`) or in several processes (:meth:`qsd.labels.pool.Pool.run`)."""
PatientRun = Callable[[Iterable[Job]], Iterator[Measured | Failure[Job]]]
"""The same, going on behind what fails."""


@contextlib.contextmanager
def open_or_create(
    path: str | Path,
    bank: Bank,
    settings: EvaluationSettings,
    conditions: dict[str, Any],
    *,
    make_provenance: Callable[[], dict[str, Any]],
) -> Iterator[Store]:
    """Holds the store to label into: a new one, or the one on disk if it was begun under the same conditions.

    Options of the bank that the store lacks are added to its table; options that the bank lacks stay in it.

    Args:
        path: of the store; locked for this writer before it is read.
        bank: the denoiser's bank.
        settings: how records are measured.
        conditions: of these settings, see :func:`qsd.labels.conditions.store_conditions`.
        make_provenance: called for a new store.

    Raises:
        QsdError: another process is writing it, or it has another denoiser, other codes of an option, another
            seed or other conditions; the message names what differs.
    """
    header = header_of(bank, conditions, tuple(label for label in LABELS if settings.yields(label.name)))

    def make() -> Header:
        return dataclasses.replace(header, provenance={**make_provenance(), "inputs": settings.paths()})

    with Store.writing(path, make) as store:
        check_same_denoiser(header.denoiser, store.header.denoiser, store.path)
        check_conditions(store.path, store.header.conditions, header.conditions)
        grow(store, header)
        yield store


def header_of(bank: Bank, conditions: dict[str, Any], labels: tuple[Label, ...] = ()) -> Header:
    """What a bank says of a store, with conditions that have its ``bank`` hashes at least."""
    return Header(
        denoiser=bank.denoiser,
        layers=bank.layers,
        graph=bank.graph,
        options=bank.options,
        num_bytes=bank.num_bytes,
        relative_error=bank.relative_errors,
        labels=labels,
        conditions=conditions,
        provenance={},
        activation_options=tuple(map(str, bank.activation_options)),
    )


def grow(store: Store, header: Header) -> None:
    """Adds to a store that is being written the options of a bank's header that it lacks.

    Raises:
        QsdError: as :func:`qsd.store.grown`.
    """
    wide = grown(store.header, header, store.path)
    if wide is not store.header:
        store.rewrite(wide)


def jobs_of_stream(
    store: Store,
    num_configs: int,
    noise_seed: int,
    *,
    split: str | None = None,
    bank: Bank | None = None,
    num_images: int | None = None,
) -> list[Job]:
    """The configs still to label.

    Args:
        store: whose records are skipped.
        num_configs: how many of the stream the store shall have in the end.
        noise_seed: of the images.
        split: only configs of this split (``test`` for repeated labels of test records).
        bank: whose options configs are drawn of; by default those of the store.
        num_images: that labels are wanted on; by default those of the store's conditions. Labels on more
            images are as good.

    Returns:
        Jobs in stream order, of configs in the order of the bank's table. Config i depends on the store's
        config seed, the table and i alone.
    """
    seed = store.header.conditions["config_seed"]
    done = measured(store, num_images)
    table: Bank | Header = bank or store.header
    options, num_layers, available = table.options, len(table.layers), table.available
    activation_options = parse_activations(map(str, table.activation_options))
    macs = np.array([layer.macs for layer in store.header.layers])
    jobs: list[Job] = []
    for index in stream(num_configs, split):
        if (index, noise_seed) not in done:
            config = sample_configs(options, num_layers, 1, seed, index, available)[0]
            activations = sample_activations(activation_options, macs, 1, seed, start=index)[0]
            jobs.append(Job(index, config, noise_seed, activations))
    return jobs


def stream(num_configs: int, split: str | None = None) -> Iterator[int]:
    """Indices of the first so many configs of a stream, or of those of one split."""
    of_split = (i for i in itertools.count() if split is None or SPLITS[int(split_of_index(i))] == split)
    return itertools.islice(of_split, num_configs)


def num_missing(
    stores: Iterable[Store], num_configs: int, noise_seed: int, num_images: int, split: str | None = None
) -> int:
    """How many configs of the stream no store has a label of, on at least so many images."""
    done = set().union(*(measured(store, num_images) for store in stores))
    return sum((index, noise_seed) not in done for index in stream(num_configs, split))


def measured(store: Store, num_images: int | None = None) -> set[tuple[int, int]]:
    """(index, noise seed) of the records on at least so many images, by default those of the conditions."""
    wanted = store.header.conditions.get("num_images", 0) if num_images is None else num_images
    enough = store.records.select(store.records.num_images >= wanted)
    return set(zip(enough.index.tolist(), enough.noise_seed.tolist(), strict=True))


def label(
    store: Store,
    jobs: Sequence[Job] | Claims[Job],
    run: PatientRun,
    progress: Progress | None = None,
    *,
    bank: Bank | None = None,
    num_images: int | None = None,
    watch: Watch | None = None,
) -> Store:
    """Measures jobs and appends a record for each as soon as it is measured.

    Args:
        store: what to append to, held by :func:`open_or_create`.
        jobs: from :func:`jobs_of_stream`, or what a shard claims of them.
        run: measures jobs.
        progress: called after every record.
        bank: in whose table the jobs' configs are; by default the store's.
        num_images: that the jobs are measured on; by default those of the store's conditions.
        watch: told of every record.

    Returns:
        The store.

    Raises:
        QsdError: configs failed; all others were recorded.
    """
    table: Bank | Header = bank or store.header
    places = Places.of(store.header, table.options, table.activation_options)
    watch = watch or Watch()
    failures: list[Failure[Job]] = []
    moved: list[bool] = []
    for done, result in enumerate(run(jobs)):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        job, labels, seconds = result
        rounded = _recorded(job)
        store.append(
            index=job.index,
            config=places.options[job.config.astype(np.int64)],
            activation=None if rounded is None else places.activations[rounded.astype(np.int64)],
            labels=labels,
            noise_seed=job.noise_seed,
            seconds=seconds,
            num_images=num_images,
        )
        moved.append(moved_by(labels))
        if len(moved) == FEW:
            say_if_unmoved(moved, "configs")
        message = watch.record(job.index, labels, seconds)
        if progress:
            progress(done + 1, len(jobs), message)
    if len(moved) < FEW:
        say_if_unmoved(moved, "configs")
    check_complete(failures)
    return store


def _recorded(job: Job) -> np.ndarray | None:
    assert not isinstance(job.activations, Schedule), "a record has one activation vector"
    return job.activations
