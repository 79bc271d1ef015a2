"""What a user calls: the stages of the road, wired to each other. Everything here is exported by ``qsd``."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from qsd import bank as bank_module
from qsd import labels as labels_module
from qsd.bank import Bank
from qsd.denoisers import GraphKind, trace_whole
from qsd.evaluation import EvaluationSettings
from qsd.labels import Measurer, Prober, Run, RunLayers
from qsd.quantizers import DEFAULT_OPTIONS, Option, parse_options
from qsd.quantizers.activations import parse_activations
from qsd.ranker.checkpoint import Ranker
from qsd.search import Front, FrontMeta, SearchSettings
from qsd.search.searching import search as run_search
from qsd.store import Store
from qsd.support.progress import Progress
from qsd.support.provenance import provenance


def build_bank(
    pipe: DiffusionPipeline | nn.Module,
    options: Sequence[Option | str] | str = DEFAULT_OPTIONS,
    *,
    denoiser: str | None = None,
    inputs: Mapping[str, Any] | None = None,
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
        graph: "traced", or "chain" for a denoiser that cannot be traced: weights in module order.
        activations: ways to round inputs of layers that configs choose from, such as ``["16", "8", "6h"]``.
        threads: layers quantized at a time.
        command: for the provenance.
        progress: called once per layer.

    Raises:
        QsdError: an unknown option, a weight with NaN or infinity, or a denoiser that cannot be traced.
    """
    texts = [options] if isinstance(options, str) else [str(option) for option in options]
    table = parse_options(texts)
    module, traced = trace_whole(pipe, denoiser=denoiser, inputs=inputs, graph=graph)
    return bank_module.build_bank(
        module,
        table,
        traced=traced,
        activations=parse_activations(activations),
        threads=threads,
        provenance=provenance(command),
        progress=progress,
    )


def label(
    pipe: DiffusionPipeline,
    bank: Bank,
    store: str | Path,
    *,
    num_configs: int,
    evaluator: EvaluationSettings,
    config_seed: int = 0,
    split: str | None = None,
    run: Run | None = None,
    command: str | None = None,
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
        run: measures jobs elsewhere, such as :meth:`qsd.labels.Pool.run`; by default here.
        command: for the provenance.
        progress: called after every record.

    Raises:
        QsdError: the store was begun under other conditions, or another process is labeling into it.
    """
    measurer = functools.cache(lambda: Measurer(pipe, bank, evaluator))  # if there is something to measure
    with _opened(measurer, bank, store, evaluator, config_seed, command) as opened:
        jobs = labels_module.jobs_of_stream(opened, num_configs, evaluator.noise_seed, split=split)
        if jobs:
            labels_module.label(opened, jobs, run or measurer().run, progress)
        return opened


def probe(
    pipe: DiffusionPipeline,
    bank: Bank,
    store: str | Path,
    *,
    evaluator: EvaluationSettings,
    num_images: int = 64,
    config_seed: int = 0,
    restart: bool = False,
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
        restart: measures all layers anew, with other images for example; what the store knew is lost.
        run: measures layers elsewhere, such as :meth:`qsd.labels.Pool.run`; by default here.
        command: for the provenance.
        progress: called after every layer.

    Raises:
        QsdError: the store was begun under other conditions, or another process is writing it.
    """
    few = dataclasses.replace(evaluator, num_images=num_images)
    measurer = functools.cache(lambda: Measurer(pipe, bank, evaluator))
    with _opened(measurer, bank, store, evaluator, config_seed, command) as opened:
        return labels_module.probe(
            opened,
            bank,
            few,
            run or (lambda layers: Prober(pipe, bank, few).run(layers)),
            provenance=provenance(command),
            restart=restart,
            progress=progress,
        )


def search(
    ranker: Ranker,
    bank: Bank,
    *,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    settings: SearchSettings | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Front:
    """Searches configs that a ranker likes within a budget that is never exceeded.

    Args:
        ranker: trained on the bank's denoiser and option table.
        bank: its sizes are the exact bytes of the budget.
        max_bits: budget in average bits per weight; give this, ``max_bytes``, or neither.
        max_bytes: budget in bytes.
        settings: how much to search.
        seed: equal seeds give equal fronts.
        command: for the provenance.
        progress: called per generation.

    Raises:
        QsdError: ranker and bank do not belong together, or the budget is below the smallest size.
    """
    ranker.check(bank, "bank")
    meta = FrontMeta(
        layer_names=tuple(bank.layer_names),
        option_names=tuple(str(option) for option in bank.options),
        denoiser=bank.denoiser,
        options_hash=bank.options_hash,
        ranker={"target": ranker.target, "provenance": ranker.provenance},
        command=command,
        versions=provenance()["versions"],
    )
    return run_search(
        ranker,
        bank.num_bytes,
        bank.num_weights,
        bank.options,
        max_bits=max_bits,
        max_bytes=max_bytes,
        meta=meta,
        settings=settings or SearchSettings(),
        seed=seed,
        progress=progress,
    )


def _opened(
    measurer: Callable[[], Measurer],
    bank: Bank,
    store: str | Path,
    evaluator: EvaluationSettings,
    config_seed: int,
    command: str | None,
) -> AbstractContextManager[Store]:
    """The store, which knows full precision from its beginning."""

    def facts() -> dict[str, Any]:
        full = measurer().full_precision(evaluator.noise_seed).labels
        return provenance(command) | {"full_precision": full}

    return labels_module.open_or_create(
        store, bank, evaluator, config_seed=config_seed, make_provenance=facts
    )
