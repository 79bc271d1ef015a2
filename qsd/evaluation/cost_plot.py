"""Draws what forms of a denoiser cost."""

from collections.abc import Sequence
from pathlib import Path

from qsd.evaluation.costs import Costs
from qsd.support.errors import QsdError
from qsd.support.files import atomic


def check_plot(path: str | Path) -> None:
    """Refuses an image file that could not be written, before anything is measured for it; makes its folder.

    Raises:
        QsdError: its ending is that of no image.
    """
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".") not in kinds:
        raise QsdError(f"--plot {path}: ends with no kind of image; take .png or .svg")
    Path(path).parent.mkdir(parents=True, exist_ok=True)


def plot_costs(costs: Sequence[Costs], path: str | Path) -> None:
    """Two panels: time of a call over that of full precision for every shape, and megabytes.

    Args:
        costs: full precision first.
        path: image file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    times, sizes = figure.subplots(1, 2, width_ratios=[3, 2])
    shapes = [f"{call.batch_size} x {call.tokens}" for call in costs[0].calls]
    width = 0.8 / len(costs)
    for number, cost in enumerate(costs):
        ratios = [
            call.call_cpu_seconds / full.call_cpu_seconds
            for call, full in zip(cost.calls, costs[0].calls, strict=True)
        ]
        places = [position + (number - (len(costs) - 1) / 2) * width for position in range(len(shapes))]
        bars = times.bar(places, ratios, width, label=cost.name)
        times.bar_label(bars, fmt="%.2f", fontsize=7)
    times.axhline(1, color="black", linewidth=0.7)
    times.set_xticks(range(len(shapes)), shapes)
    times.set(xlabel="images x latent positions", ylabel="processor time of a call / full precision")
    times.legend(fontsize=8)
    names = [cost.name for cost in costs]
    for offset, (label, values) in enumerate(
        {
            "file": [(cost.file_bytes or 0) / 1e6 for cost in costs],
            "loading, peak": [cost.load_peak_bytes / 1e6 for cost in costs],
            "calls, peak": [cost.peak_bytes / 1e6 for cost in costs],
        }.items()
    ):
        places = [position + (offset - 1) * 0.27 for position in range(len(names))]
        sizes.barh(places, values, 0.25, label=label)
    sizes.set_yticks(range(len(names)), names)
    sizes.invert_yaxis()
    sizes.set_xlabel("MB")
    sizes.legend(fontsize=8)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120, format=Path(path).suffix.removeprefix("."))
