"""Which sampling steps bear rounded activations less: each group of steps alone, all others untouched."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from qsd.bank import FULL_PRECISION, Bank
from qsd.configs.activations import uniform_activations
from qsd.configs.schedule import Schedule, check_ranges, even_ranges
from qsd.denoisers.identity import check_same_denoiser
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.measurer import Measurer
from qsd.quantizers.activations import ActivationOption
from qsd.support.documents import Schema, read_json
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

STEPS_FORMAT = "qsd-steps"
_REMEDY = "write it again with `qsd probe --steps-groups`"


class _Document(Schema):
    format: str
    version: int
    denoiser: dict[str, Any]
    ranges: list[Annotated[list[int], Field(min_length=2, max_length=2)]]
    latent_mse_per_step: dict[str, list[float]]
    hash: str | None = None


@dataclasses.dataclass(frozen=True)
class StepProbe:
    """What rounding in one group of steps does. G groups, A - 1 options.

    Attributes:
        ranges: G ranges [start, stop) of steps.
        options: texts of the activation options but 16.
        latent_mse: float64 [A - 1, G], mean squared change of the final latents per step of the group.
        denoiser: identity of the denoiser.
    """

    ranges: tuple[tuple[int, int], ...]
    options: tuple[str, ...]
    latent_mse: np.ndarray
    denoiser: dict[str, Any]

    def shares(self, options: Sequence[ActivationOption]) -> np.ndarray:
        """Which share of the change by an option each group has, float64 [A, G].

        Options that were not probed, and 16, change like the mean of those that were.

        Args:
            options: A activation options.
        """
        change = self.latent_mse * [stop - start for start, stop in self.ranges]
        known = change / np.maximum(change.sum(axis=1, keepdims=True), 1e-300)
        rows = dict(zip(self.options, known, strict=True))
        return np.stack([rows.get(str(option), known.mean(axis=0)) for option in options])

    @classmethod
    def load(cls, path: str | Path, denoiser: Mapping[str, Any]) -> Self:
        """Reads what ``qsd probe --steps-groups`` wrote.

        Raises:
            QsdError: no such file, another kind of file, or another denoiser's.
        """
        document = read_json(path, STEPS_FORMAT, 1, _Document, remedy=_REMEDY)
        check_same_denoiser(dict(denoiser), document["denoiser"], path)
        rows = document["latent_mse_per_step"]
        ranges = tuple((start, stop) for start, stop in document["ranges"])
        check_ranges(ranges, path)
        if not rows or any(len(row) != len(ranges) or min(row) < 0 for row in rows.values()):
            raise QsdError(f"{path}: its numbers do not fit its ranges of steps; {_REMEDY}")
        values = np.array(list(rows.values()), dtype=np.float64)
        return cls(ranges, tuple(rows), values, document["denoiser"])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": STEPS_FORMAT,
            "version": 1,
            "denoiser": self.denoiser,
            "ranges": [list(pair) for pair in self.ranges],
            "latent_mse_per_step": dict(zip(self.options, self.latent_mse.tolist(), strict=True)),
        }


def probe_steps(
    pipe: Any,
    bank: Bank,
    settings: EvaluationSettings,
    groups: int,
    progress: Progress | None = None,
) -> StepProbe:
    """Rounds the inputs of all layers in one group of steps at a time, weights at full precision.

    Args:
        pipe: at full precision.
        bank: of its denoiser, with activation options beside 16.
        settings: how to draw.
        groups: even ranges that the steps are divided into.
        progress: called after every drawing.

    Raises:
        QsdError: the bank has no activation options, or there are more groups than steps.
    """
    rounded = bank.activation_options[1:]
    if not rounded:
        raise QsdError("steps: the bank has no activation options but 16; build one with `--activations`")
    ranges = even_ranges(settings.steps, groups)
    measurer = Measurer(pipe, bank, settings)
    full = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
    changes = np.zeros((len(rounded), groups))
    for row, option in enumerate(rounded):
        vector = uniform_activations(bank.activation_options, bank.macs, option)
        for group, (start, stop) in enumerate(ranges):
            vectors = np.zeros((groups, len(vector)), dtype=np.int8)
            vectors[group] = vector
            labels = measurer.measure(full, settings.noise_seed, Schedule(ranges, vectors)).labels
            changes[row, group] = labels["latent_mse"] / (stop - start)
            if progress:
                progress(row * groups + group + 1, changes.size, f"{option} in steps {start} to {stop - 1}")
    return StepProbe(ranges, tuple(map(str, rounded)), changes, dict(bank.denoiser))


def plot_steps(probe: StepProbe, path: str | Path, title: str) -> None:
    """Draws the change per step of each group, a line per option, on a logarithmic axis."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(probe.ranges))
    markers: Sequence[str] = "osD^vP"
    colors = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(probe.options)))
    for row, (option, changes) in enumerate(zip(probe.options, probe.latent_mse, strict=True)):
        axes.plot(
            places, changes, marker=markers[row % len(markers)], color=colors[row], label=f"{option} bits"
        )
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{start} to {stop - 1}" for start, stop in probe.ranges])
    axes.set_xlabel("sampling steps whose inputs are rounded (0 is the noisiest)")
    axes.set_ylabel("latent MSE per step")
    axes.set_title(title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
