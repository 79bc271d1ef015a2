"""Applies a config to a pipeline's denoiser and measures it, in this process or in several."""

import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers import DiffusionPipeline

from qsd.bank import Applier, Bank
from qsd.denoisers.pipeline import denoiser_of, load_pipeline
from qsd.labels.evaluator import Evaluator, Measurement
from qsd.labels.settings import EvaluationSettings


@dataclasses.dataclass(frozen=True)
class Job:
    """One config to measure.

    Attributes:
        index: position in the seeded stream of random configs, or any number of the caller's.
        config: int8 [L].
        noise_seed: seed of the initial noise.
    """

    index: int
    config: np.ndarray
    noise_seed: int


class Measurer:
    """A pipeline, a bank and an evaluator that work together.

    Attributes:
        bank: whose options are measured.
        evaluator: how they are measured.
    """

    def __init__(self, pipe: DiffusionPipeline, bank: Bank, settings: EvaluationSettings) -> None:
        """Attaches the bank to the pipeline's denoiser.

        Raises:
            QsdError: the bank is another denoiser's, or the settings name what is not there.
        """
        self.bank = bank
        self.evaluator = Evaluator(pipe, settings)
        self._applier = Applier(bank, denoiser_of(pipe))

    def full_precision(self, noise_seed: int) -> Measurement:
        """Measures full precision; kept per seed."""
        self._applier.restore()
        return self.evaluator.full_precision(noise_seed)

    def measure(self, config: np.ndarray, noise_seed: int) -> Measurement:
        """Measures a config (int8 [L]) and leaves the denoiser at full precision."""
        self.full_precision(noise_seed)
        with self._applier as applier:
            applier.apply(config)
            return self.evaluator.measure(noise_seed)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        """Measures jobs one after another, yielding (job, labels, seconds)."""
        for job in jobs:
            start = time.perf_counter()
            labels = self.measure(job.config, job.noise_seed).labels
            yield job, labels, time.perf_counter() - start


class MeasurerPool:
    """Processes that each hold a pipeline and a bank; results come as they are ready.

    One process per core (each computing on one thread) labels faster than one process on all cores.
    """

    def __init__(
        self, pipeline: str | Path, bank: str | Path, settings: EvaluationSettings, workers: int
    ) -> None:
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open_worker,
            initargs=(str(pipeline), str(bank), settings),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        """Measures jobs side by side, yielding (job, labels, seconds) in order of completion."""
        futures = [self._executor.submit(_run_in_worker, job) for job in jobs]
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: [future.cancel() for future in futures])
            for future in as_completed(futures):
                yield future.result()


_worker: Measurer | None = None


def _open_worker(pipeline: str, bank: str, settings: EvaluationSettings) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Measurer(load_pipeline(pipeline), Bank.load(bank), settings)


def _run_in_worker(job: Job) -> tuple[Job, dict[str, float], float]:
    assert _worker is not None, "the pool's initializer opens the measurer"
    return next(iter(_worker.run([job])))
