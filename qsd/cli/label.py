"""``qsd label``."""

import contextlib
from collections.abc import Sequence

from qsd.api import label as label_configs
from qsd.bank import Bank
from qsd.cli.console import bar, command_line, run_function
from qsd.cli.store import show
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Measurer, Pool


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
        evaluation: prompts, reference images (none: paired labels alone), metrics, image count, steps,
            guidance, seed of the noise.
        num_configs: how many configs of the random stream the store shall have in the end.
        config_seed: seed of the stream of random configs.
        split: label only configs of this split: train, validation or test.
        workers: processes that label side by side on the CPU, one thread each.
        device: where one process labels when workers is 1.
        json: print what the store holds as JSON.
    """
    pipe, loaded = load_pipeline(pipeline, device=device), Bank.load(bank)
    with contextlib.ExitStack() as stack:
        pool = (
            stack.enter_context(Pool(Measurer, pipeline, bank, evaluation, workers, device))
            if workers > 1
            else None
        )
        progress = stack.enter_context(bar("Label"))
        labeled = label_configs(
            pipe,
            loaded,
            store,
            num_configs=num_configs,
            evaluator=evaluation,
            config_seed=config_seed,
            split=split,
            run=pool.run if pool else None,
            command=command_line(),
            progress=progress,
        )
    show(labeled, json)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(label, words)
