"""What a user calls: the stages of the road, wired to each other. Everything here is exported by ``qsd``."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from torch import nn

from qsd import bank as bank_module
from qsd import labels as labels_module
from qsd.bank import Bank
from qsd.denoisers import GraphKind, Traced, trace_whole
from qsd.denoisers.source import Source, open_source
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.recording_call import recording_call
from qsd.labels import Job, Measurer, Prober, RunLayers
from qsd.labels.active import ActiveSettings, label_actively
from qsd.labels.budget import layers_to_probe
from qsd.labels.labeling import PatientRun
from qsd.labels.leaving_out import leaving_out
from qsd.labels.shards import Shard, Shards
from qsd.labels.watching import Watch
from qsd.quantizers import DEFAULT_OPTIONS, Option, parse_options
from qsd.quantizers.activations import parse_activations
from qsd.quantizers.options import TABLES
from qsd.ranker.bounds import Answer, Bound, smallest_within
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.objectives import objectives_of
from qsd.ranker.tasks import (
    Known,
    OrthogonalitySettings,
    ScoreName,
    make_task,
    meta_of,
    similarities,
    space_of,
)
from qsd.ranker.universal.universal import Universal
from qsd.search import METHODS, Front, MethodName, SearchSettings
from qsd.search.coupling import Coupling, FormatName
from qsd.search.objectives import search_objectives
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.progress import Progress
from qsd.support.provenance import provenance


def build_bank(
    pipe: DiffusionPipeline | nn.Module,
    options: Sequence[Option | str] | str = DEFAULT_OPTIONS,
    *,
    denoiser: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    evaluator: EvaluationSettings | None = None,
    graph: GraphKind = "traced",
    activations: Sequence[str | int] = ("16",),
    threads: int = 1,
    command: str | None = None,
    progress: Progress | None = None,
) -> Bank:
    """Quantizes every weight layer of a denoiser, or of all denoisers of a pipeline, by every option.

    Args:
        pipe: a pipeline, or its denoiser, at full precision.
        options: the option table, such as ``["uaq-4g64", "kmeans_c-3"]``, or "default" or "paper".
        denoiser: name of the pipeline's component to restrict to; by default all its denoisers.
        inputs: keyword arguments of the denoiser's forward, or denoiser name -> such. By default those that
            the pipeline's own call gives it.
        evaluator: whose prompts, images, sizes and ``call`` that call is given, which some pipelines need.
        graph: "traced", or "chain" for a denoiser that cannot be traced: weights in module order.
        activations: ways to round inputs of layers that configs choose from, such as ``["16", "8", "6h"]``.
        threads: layers quantized at a time.
        command: for the provenance.
        progress: called once per layer.

    Raises:
        QsdError: an unknown option, a weight with NaN or infinity, or a denoiser that cannot be traced.
    """
    call = {} if isinstance(pipe, nn.Module) else recording_call(pipe, evaluator)
    module, traced = trace_whole(pipe, denoiser=denoiser, inputs=inputs, graph=graph, call=call)
    return bank_module.build_bank(
        module,
        _table(options, traced),
        traced=traced,
        activations=parse_activations(activations),
        threads=threads,
        provenance=provenance(command),
        progress=progress,
    )


def write_bank(
    source: str | Path | Source,
    out: str | Path,
    options: Sequence[Option | str] | str = DEFAULT_OPTIONS,
    *,
    inputs: Mapping[str, Any] | None = None,
    evaluator: EvaluationSettings | None = None,
    graph: GraphKind = "traced",
    activations: Sequence[str | int] = ("16",),
    threads: int = 1,
    command: str | None = None,
    progress: Progress | None = None,
) -> Bank:
    """Quantizes like :func:`build_bank`, from the files of a pipeline into the file of a bank.

    Weights are read one by one and written as they are quantized, so that the denoiser is never in memory
    where its folder allows for it (:func:`qsd.denoisers.source.open_source`).

    Args:
        source: a pipeline folder, or what ``open_source`` opened.
        out: safetensors file to write.
        options: as for :func:`build_bank`.
        inputs: likewise.
        evaluator: likewise.
        graph: likewise.
        activations: likewise.
        threads: likewise.
        command: likewise.
        progress: likewise.

    Returns:
        The bank, whose tensors stay in the file.

    Raises:
        QsdError: as :func:`build_bank`, or the pipeline cannot be opened.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    opened, traced = opened.traced(inputs, graph, recording_call(opened.pipe, evaluator))
    return bank_module.write_bank(
        out,
        opened.read,
        opened.identity,
        _table(options, traced),
        traced=traced,
        activations=parse_activations(activations),
        threads=threads,
        provenance=provenance(command),
        progress=progress,
    )


def _table(options: Sequence[Option | str] | str, traced: Traced) -> tuple[Option, ...]:
    """The options; of a table that nobody wrote for this denoiser, those that fit it."""
    table = parse_options(options if isinstance(options, str) else map(str, options))
    if table not in TABLES.values():
        return table
    shapes = {layer.shape for layer in traced.layers}
    return tuple(option for option in table if any(map(option.accepts, shapes)))


def label(
    pipe: DiffusionPipeline,
    bank: Bank,
    store: str | Path,
    *,
    num_configs: int,
    evaluator: EvaluationSettings,
    config_seed: int = 0,
    split: str | None = None,
    num_images: int | None = None,
    active: ActiveSettings | None = None,
    shard: Shard | None = None,
    run: PatientRun | None = None,
    command: str | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Store:
    """Measures random configs and appends a durable record for each; goes on where an earlier call stopped.

    Args:
        pipe: at full precision.
        bank: the denoiser's bank.
        store: HDF5 file to create or go on with.
        num_configs: how many configs of the random stream the store shall have in the end.
        evaluator: prompts, reference images, metrics, image count, steps, guidance, seed of the noise.
        config_seed: names the stream of random configs.
        split: label only configs of this split.
        num_images: labels on only the first so many images of the evaluation. They are noisier, and the
            ranker weighs them so; a store may hold records of several numbers.
        active: choose the configs, ``num_configs`` of them, by what a probed store knows
            (:mod:`qsd.labels.active`) instead of going along the random stream.
        shard: this process is one of several that share the work; it labels into a store of its own in
            ``STORE.shards`` (:mod:`qsd.labels.shards`).
        run: measures jobs elsewhere, such as :meth:`qsd.labels.Pool.run`; by default here.
        command: for the provenance.
        watch: told of every record.
        progress: called after every record.

    Raises:
        QsdError: the store was begun under other conditions, or another process is labeling into it.
    """
    if active is not None and (shard is not None or split is not None):
        raise QsdError("--strategy active: one process chooses; leave out --shard and --split")
    few = evaluator.on_first(num_images)
    measurer = functools.cache(lambda: Measurer(pipe, bank, evaluator))  # if there is something to measure
    measuring = measurer if few == evaluator else functools.cache(lambda: Measurer(pipe, bank, few))
    begin = _opener(measurer, pipe, bank, evaluator, config_seed, command)

    def patiently(jobs: Iterable[Job]) -> Iterator[Any]:
        return leaving_out(measuring(), jobs)

    with _held(begin, store, shard) as (opened, shards):
        seed = evaluator.noise_seed
        if active is not None:
            return label_actively(
                *(opened, bank, num_configs, seed, run or patiently, active),
                num_images=num_images,
                progress=progress,
                watch=watch,
            )
        jobs = labels_module.jobs_of_stream(
            opened, num_configs, seed, split=split, bank=bank, num_images=num_images
        )
        mine = shards.jobs(jobs, num_images) if shards else jobs
        if mine:
            labels_module.label(
                *(opened, mine, run or patiently, progress),
                bank=bank,
                num_images=num_images,
                watch=watch,
            )
        return opened


def probe(
    pipe: DiffusionPipeline,
    bank: Bank,
    store: str | Path,
    *,
    evaluator: EvaluationSettings,
    num_images: int = 8,
    config_seed: int = 0,
    budget: float | None = None,
    universal: Universal | None = None,
    restart: bool = False,
    around: np.ndarray | None = None,
    shard: Shard | None = None,
    run: RunLayers | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Store:
    """Measures what each option of each layer does alone into a store; goes on where an earlier call stopped.

    Args:
        pipe: at full precision.
        bank: the denoiser's bank.
        store: HDF5 file to create or add to.
        evaluator: as for :func:`label`.
        num_images: images per option, at most those of a label.
        config_seed: of the store's stream of random configs.
        budget: share of the layers to measure, those that are least predictable; the store tells which they
            are. None for all.
        universal: what predicts them; without one, layers of large error and many weights come first.
        restart: measures all layers anew, with other images for example; what the store knew is lost.
        around: int8 [L], a config to measure each option in, in place of full precision.
        shard: as for :func:`label`.
        run: measures layers elsewhere, such as :meth:`qsd.labels.Pool.run`; by default here.
        command: for the provenance.
        progress: called after every layer.

    Raises:
        QsdError: the store was begun under other conditions, or another process is writing it.
    """
    few = dataclasses.replace(evaluator, num_images=num_images)
    measurer = functools.cache(lambda: Measurer(pipe, bank, evaluator))
    begin = _opener(measurer, pipe, bank, evaluator, config_seed, command)
    with _held(begin, store, shard) as (opened, shards):
        responses = None if restart else opened.header.responses
        layers = None if budget is None else layers_to_probe(bank, budget, responses, universal)
        return labels_module.probe(
            opened,
            bank,
            few,
            run or (lambda cells: leaving_out(Prober(pipe, bank, few, around), cells)),
            provenance=provenance(command, around=None if around is None else around.tolist()),
            layers=layers,
            restart=restart,
            claim=shards.layers if shards else None,
            progress=progress,
        )


def search(
    ranker: Ranker | None,
    bank: Bank,
    *,
    method: MethodName = "evolution",
    max_bits: float | None = None,
    max_bytes: int | None = None,
    keep: Mapping[str, str] | None = None,
    at_least: Mapping[str, str] | None = None,
    couple: Sequence[Coupling] = (),
    format: FormatName = "qsd",
    store: Store | None = None,
    pipe: DiffusionPipeline | None = None,
    evaluator: EvaluationSettings | None = None,
    score: ScoreName = "errors",
    orthogonality: OrthogonalitySettings | None = None,
    objectives: Sequence[str] = (),
    settings: SearchSettings | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Front:
    """Searches good configs within a budget that is never exceeded.

    Args:
        ranker: trained on the bank's denoiser and option table; predicts the configs of every method. Only
            `evolution`, `operation` and `block` need one.
        bank: its sizes are the exact bytes of the budget.
        method: a name of :data:`qsd.search.METHODS`.
        max_bits: budget in average bits per weight; give this, ``max_bytes``, or neither.
        max_bytes: budget in bytes.
        keep: pins, pattern of layer names -> option, such as ``{"proj_out": "uaq-8"}``.
        at_least: floors, pattern -> option: one of at least its bits.
        couple: "qkv" and "segments": layers that take the same option.
        format: of the export to come: only what it can hold, with what it fuses coupled.
        store: probed, for `length`, `greedy` and `knapsack` over energies; labeled, for that over ridge.
        pipe: at full precision, for `orthogonality`.
        evaluator: how it draws.
        score: of `knapsack`.
        orthogonality: settings of that method.
        objectives: labels such as ``["fid", "psnr"]``, for `evolution`: a front of these and of bytes.
        settings: how much to search.
        seed: equal seeds give equal fronts.
        command: for the provenance.
        progress: called as the search advances.

    Raises:
        QsdError: what is given does not belong together, the method needs more, the budget is below the
            smallest size, or pins and floors leave a layer without an option.
    """
    weighing = orthogonality or OrthogonalitySettings()
    gamma = None
    if method == "orthogonality" and pipe is not None and evaluator is not None:
        gamma = similarities(pipe, bank, evaluator, weighing, progress)
    known = Known(bank, ranker, store, gamma)
    task = make_task(
        method,
        known,
        space_of(bank, keep, at_least, couple=couple, format=format),
        max_bits=max_bits,
        max_bytes=max_bytes,
        score=score,
        orthogonality=weighing,
        settings=settings or SearchSettings(),
        seed=seed,
        meta=meta_of(known, provenance()["versions"], command),
        progress=progress,
    )
    if objectives:
        if method != "evolution" or ranker is None:
            raise QsdError("objectives: are for --method evolution with --ranker, which predicts them")
        return search_objectives(task, objectives_of(ranker, objectives))
    return METHODS[method](task)


def smallest(
    ranker: Ranker,
    bank: Bank,
    bounds: Sequence[Bound],
    *,
    confidence: float = 0.9,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    keep: Mapping[str, str] | None = None,
    at_least: Mapping[str, str] | None = None,
    couple: Sequence[Coupling] = (),
    format: FormatName = "qsd",
    settings: SearchSettings | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Answer:
    """Searches the smallest config whose labels keep their bounds, such as an FID of at most 0.2.

    Args:
        ranker: trained on the bank's denoiser and option table; predicts the labels.
        bank: its sizes are exact.
        bounds: at least one.
        confidence: probability with which each bound must hold.
        max_bits: no config above that; give this, ``max_bytes``, or neither.
        max_bytes: likewise in bytes.
        keep: pins, as for :func:`search`.
        at_least: floors, likewise.
        couple: "qkv" and "segments": layers that take the same option.
        format: of the export to come: only what it can hold, with what it fuses coupled.
        settings: how much to search.
        seed: equal seeds give equal answers.
        command: for the provenance.
        progress: called as the search advances.

    Raises:
        QsdError: no config keeps the bounds with that confidence; the message says what the data can tell.
    """
    known = Known(bank, ranker)
    task = make_task(
        "evolution",
        known,
        space_of(bank, keep, at_least, couple=couple, format=format),
        max_bits=max_bits,
        max_bytes=max_bytes,
        settings=settings or SearchSettings(),
        seed=seed,
        meta=meta_of(known, provenance()["versions"], command),
        progress=progress,
    )
    return smallest_within(task, ranker.over(bank.options), bounds, confidence)


def _opener(
    measurer: Callable[[], Measurer],
    pipe: DiffusionPipeline,
    bank: Bank,
    evaluator: EvaluationSettings,
    config_seed: int,
    command: str | None,
) -> Callable[[Path], AbstractContextManager[Store]]:
    """What holds a store by its path; a new one knows full precision from its beginning."""

    def facts() -> dict[str, Any]:
        full = measurer().full_precision(evaluator.noise_seed).labels
        return provenance(command) | {"full_precision": full}

    conditions = labels_module.store_conditions(pipe, bank, evaluator, config_seed=config_seed)
    return lambda path: labels_module.open_or_create(path, bank, evaluator, conditions, make_provenance=facts)


@contextlib.contextmanager
def _held(
    begin: Callable[[Path], AbstractContextManager[Store]], store: str | Path, shard: Shard | None
) -> Iterator[tuple[Store, Shards | None]]:
    """The store, or that of this process among the shards of the store."""
    if shard is None:
        with begin(Path(store)) as opened:
            yield opened, None
    else:
        with Shards(store, shard) as shards, shards.opened(begin) as opened:
            yield opened, shards
