"""``qsd probe``."""

import contextlib
import dataclasses
from collections.abc import Sequence

from qsd.api import probe as probe_options
from qsd.bank import Bank
from qsd.cli.console import bar, command_line, run_function
from qsd.cli.store import show
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Pool, Prober


def probe(
    pipeline: str,
    bank: str,
    store: str,
    evaluation: EvaluationSettings,
    num_images: int = 64,
    config_seed: int = 0,
    restart: bool = False,
    workers: int = 1,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Measures on a few images what each option of each layer does alone, and adds it to a store.

    A ranker of a probed store knows which errors add up and which cancel, and needs far fewer labels. Run
    again it goes on where it was.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        store: HDF5 file to create or add to, begun under the same evaluation and config_seed.
        evaluation: as for `qsd label`.
        num_images: images per option; there are as many options as layers times options per layer.
        config_seed: seed of the store's stream of random configs.
        restart: measure all layers anew, with other images for example; what the store knew is lost.
        workers: processes that draw side by side on the CPU, one thread each.
        device: where one process draws when workers is 1.
        json: print what the store holds as JSON.
    """
    pipe, loaded = load_pipeline(pipeline, device=device), Bank.load(bank)
    with contextlib.ExitStack() as stack:
        few = dataclasses.replace(evaluation, num_images=num_images)
        pool = stack.enter_context(Pool(Prober, pipeline, bank, few, workers)) if workers > 1 else None
        progress = stack.enter_context(bar("Probe"))
        probed = probe_options(
            pipe,
            loaded,
            store,
            evaluator=evaluation,
            num_images=num_images,
            config_seed=config_seed,
            restart=restart,
            run=pool.run if pool else None,
            command=command_line(),
            progress=progress,
        )
    show(probed, json)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(probe, words)
