"""``qsd label``."""

from collections.abc import Sequence
from pathlib import Path

from qsd.bank import Bank
from qsd.cli.console import bar, command_line, messages, print_json, run_function
from qsd.cli.store import store_facts
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels import EvaluationSettings, Measurer, MeasurerPool, jobs_of_stream, open_or_create
from qsd.labels import label as label_store
from qsd.provenance import provenance
from qsd.store import Store


def label(
    pipeline: str,
    bank: str,
    store: str,
    evaluation: EvaluationSettings,
    num_configs: int = 500,
    config_seed: int = 0,
    split: str | None = None,
    workers: int = 1,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Measures random configs of a denoiser and appends one durable record each to a store.

    Run again it goes on where it was; with a larger --num_configs the store grows.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        store: HDF5 file to create or go on with.
        evaluation: prompts, reference images, metrics, image count, steps, guidance, seed of the noise.
        num_configs: how many configs of the random stream the store shall have in the end.
        config_seed: seed of the stream of random configs.
        split: label only configs of this split: train, validation or test.
        workers: processes that label side by side on the CPU, one thread each.
        device: where one process labels when workers is 1.
        json: print what the store holds as JSON.
    """
    loaded = Bank.load(bank)
    measurer = None if Path(store).exists() and workers > 1 else Measurer(
        load_pipeline(pipeline, device=device), loaded, evaluation
    )
    facts = provenance(command_line())
    if measurer is not None:
        facts["full_precision"] = measurer.full_precision(evaluation.noise_seed).labels
    opened = open_or_create(store, loaded, evaluation, config_seed=config_seed, provenance=facts)
    jobs = jobs_of_stream(opened, num_configs, evaluation.noise_seed, split=split)
    messages.print(f"{store}: {len(opened.records)} records, {len(jobs)} configs to label")
    with bar("Label") as progress:
        if workers > 1:
            with MeasurerPool(pipeline, bank, evaluation, workers) as pool:
                label_store(opened, jobs, pool.run, progress)
        elif measurer is not None:
            label_store(opened, jobs, measurer.run, progress)
    if json:
        print_json(store_facts(Store.open(store)))


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(label, words)
