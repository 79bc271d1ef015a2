"""Which sampling steps bear rounded activations less: each group of steps alone, all others untouched."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from qsd.bank import FULL_PRECISION, Bank
from qsd.configs.activations import uniform_activations
from qsd.configs.schedule import Schedule, even_ranges
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.measurer import Measurer
from qsd.support.errors import QsdError
from qsd.support.progress import Progress


@dataclasses.dataclass(frozen=True)
class StepProbe:
    """What rounding in one group of steps does. G groups, A - 1 options.

    Attributes:
        ranges: G ranges [start, stop) of steps.
        options: texts of the activation options but 16.
        latent_mse: float64 [A - 1, G], mean squared change of the final latents per step of the group.
    """

    ranges: tuple[tuple[int, int], ...]
    options: tuple[str, ...]
    latent_mse: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
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
    return StepProbe(ranges, tuple(map(str, rounded)), changes)


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
