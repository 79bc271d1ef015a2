"""Applies a config to a pipeline's denoiser and measures it."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from qsd.bank import Applier, Bank
from qsd.configs.schedule import Schedule
from qsd.denoisers.components import denoiser_like
from qsd.evaluation.calibration import calibrate
from qsd.evaluation.evaluator import Evaluator, Measurement
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.leaving_out import HopelessError
from qsd.runtime.int8 import integer_layers, is_integer
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class Job:
    """One config to measure.

    Attributes:
        index: position in the seeded stream of random configs, or any number of the caller's.
        config: int8 [L].
        noise_seed: seed of the initial noise.
        activations: int8 [L] into the bank's activation options, or such a vector by range of steps; None
            leaves activations in full precision.
    """

    index: int
    config: np.ndarray
    noise_seed: int
    activations: np.ndarray | Schedule | None = None


Measured = tuple[Job, dict[str, float], float]
"""A job, its labels, and the seconds it took."""


class Measurer:
    """A pipeline, a bank and an evaluator that work together.

    Attributes:
        pipe: draws.
        bank: whose options are measured.
        evaluator: how they are measured.
    """

    def __init__(
        self, pipe: DiffusionPipeline, bank: Bank, settings: EvaluationSettings, *, integers: bool = False
    ) -> None:
        """Attaches the bank to the pipeline's denoiser.

        Args:
            pipe: at full precision.
            bank: of its denoiser.
            settings: how to draw and measure.
            integers: compute in integers (:mod:`qsd.runtime.int8`) where a Linear layer has activations of 8
                bits; its weight is then rounded to 8 bits by row, which loses nothing of fewer bits on an
                even grid.

        Raises:
            QsdError: the bank is another denoiser's, the settings name what is not there, or they compile a
                denoiser that activation options are simulated in.
        """
        if settings.compile and len(bank.activation_options) > 1:
            raise QsdError(
                "compile: activations are simulated by hooks, which compiled denoisers pass over; leave it "
                "out, or take a bank without activation options"
            )
        self.pipe = pipe
        self.bank = bank
        self.evaluator = Evaluator(pipe, settings)
        denoiser = denoiser_like(pipe, bank.denoiser)
        table = calibrate(pipe, denoiser, bank.layers, bank.activation_options, settings)
        self._applier = Applier(bank, denoiser, table)
        self._integers = integers

    def full_precision(self, noise_seed: int) -> Measurement:
        """Measures full precision; kept per seed."""
        self._applier.restore()
        try:
            return self.evaluator.full_precision(noise_seed)
        except QsdError as error:
            raise HopelessError(f"full precision: {error}") from error

    def measure(
        self, config: np.ndarray, noise_seed: int, activations: np.ndarray | Schedule | None = None
    ) -> Measurement:
        """Measures a config (int8 [L], with its activations) and leaves the denoiser at full precision."""
        self.full_precision(noise_seed)
        with self._applier as applier:
            applier.apply(config, activations)
            with self._in_integers(activations):
                measured = self.evaluator.measure(noise_seed)
            applier.check_drawn()
            return measured

    def _in_integers(self, activations: np.ndarray | Schedule | None) -> AbstractContextManager[Any]:
        """Integer layers where the options have them, if they are wanted."""
        if not self._integers or activations is None:
            return contextlib.nullcontext()
        if isinstance(activations, Schedule):
            raise QsdError("integers: a schedule changes options while drawing; measure it in simulation")
        chosen = {
            path: (layer.name, self.bank.activation_options[option])
            for layer, option in zip(self.bank.layers, activations, strict=True)
            for path in (layer.module, *layer.tied)
            if layer.segment is None and is_integer(self.bank.activation_options[option])
        }
        if not chosen:
            raise QsdError("integers: no layer has activations of 8 bits (8, 8h or 8m); name such options")
        ranges = {path: self._applier.table.ranges.get(name) for path, (name, _) in chosen.items()}
        return integer_layers(
            self._applier.denoiser,
            {path: option for path, (_, option) in chosen.items()},
            {path: known for path, known in ranges.items() if known is not None},
        )

    def run(self, jobs: Iterable[Job]) -> Iterator[Measured]:
        """Measures jobs one after another."""
        for job in jobs:
            start = time.perf_counter()
            try:
                labels = self.measure(job.config, job.noise_seed, job.activations).labels
            except HopelessError:
                raise
            except QsdError as error:
                raise QsdError(f"config {job.index}: {error}") from error
            yield job, labels, time.perf_counter() - start
