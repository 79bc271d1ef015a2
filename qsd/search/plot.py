"""The Pareto plot: what was predicted and what was measured, against size."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from qsd.search.front import Front
from qsd.search.posterior import Posterior
from qsd.support.files import atomic

_BLUE, _RED, _GREEN, _GREY = "#2166ac", "#b2182b", "#1b7837", "#8c8c8c"


@dataclass(frozen=True)
class Points:
    """Measured configs to draw beside a front.

    Attributes:
        avg_bits: float [n].
        quality: float [n], in the unit of the front's predicted quality, larger is better.
        error: float [n], standard deviation over seeds, or None.
        names: n texts to write beside the points, or None.
    """

    avg_bits: Sequence[float] | np.ndarray
    quality: Sequence[float] | np.ndarray
    error: Sequence[float] | np.ndarray | None = None
    names: Sequence[str] | None = None


def plot_front(
    front: Front,
    path: str | Path,
    *,
    quality_label: str = "quality (larger is better)",
    labeled: Points | None = None,
    uniform: Points | None = None,
    winners: Points | None = None,
    title: str = "",
) -> None:
    """Draws a front and writes it as PNG, and as SVG beside it.

    A front of several objectives is drawn in the plane of the first two, sizes by colour, alone.

    Args:
        front: Its predicted quality is a line, with a band, the 90 % interval.
        path: Destination, a name that ends in .png.
        quality_label: Name of the quality axis.
        labeled: Labeled random configs, a cloud.
        uniform: Configs that use one option everywhere.
        winners: Members of the front that were measured.
        title: Above the axes.
    """
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if front.objectives:
        _draw_objectives(figure, axes, front)
        _write(figure, Path(path))
        return
    if labeled is not None:
        axes.scatter(
            labeled.avg_bits, labeled.quality, s=9, c=_GREY, alpha=0.45, lw=0, label="random, measured"
        )
    _draw_predicted(axes, front)
    if uniform is not None:
        _draw_measured(axes, uniform, "s", _GREEN, "uniform, measured", (-11, -20))
    if winners is not None:
        _draw_measured(axes, winners, "D", _RED, "searched, measured", (12, 27))
    if front.meta.max_bits is not None:
        axes.axvline(front.meta.max_bits, color="black", lw=0.8, ls=":", label="budget")
    axes.set_xlabel("average bits per weight, codebooks and scales included")
    axes.set_ylabel(quality_label)
    if title:
        axes.set_title(title)
    axes.margins(x=0.08, y=0.14)
    axes.grid(True, color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    megabytes_per_bit = float(front.num_bytes[0] / front.avg_bits[0]) / 1e6

    def to_megabytes(bits: ArrayLike) -> np.ndarray:
        return np.asarray(bits) * megabytes_per_bit

    def to_bits(megabytes: ArrayLike) -> np.ndarray:
        return np.asarray(megabytes) / megabytes_per_bit

    top = axes.secondary_xaxis("top", functions=(to_megabytes, to_bits))
    top.set_xlabel("weights on disk, MB")
    _write(figure, Path(path))


def _write(figure: Figure, path: Path) -> None:
    for kind in ("png", "svg"):
        with atomic(path.with_suffix(f".{kind}")) as partial:
            figure.savefig(partial, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _draw_objectives(figure: Figure, axes: Axes, front: Front) -> None:
    (first, across), (second, up) = list(front.objectives.items())[:2]
    drawn = axes.scatter(across, up, c=front.avg_bits, cmap="cividis_r", s=22, edgecolor="0.3", lw=0.4)
    figure.colorbar(drawn, ax=axes, label="average bits per weight")
    axes.set(xlabel=f"{first}, predicted", ylabel=f"{second}, predicted")
    axes.grid(True, color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_predicted(axes: Axes, front: Front) -> None:
    axes.plot(front.avg_bits, front.predicted, "-o", color=_BLUE, ms=3, lw=1.5, label="front, predicted")
    if front.std.any():
        low, high = Posterior(front.predicted, front.std**2).interval(0.9)
        axes.fill_between(
            front.avg_bits, low, high, color=_BLUE, alpha=0.15, lw=0, label="90 % interval, predicted"
        )


def _draw_measured(
    axes: Axes, points: Points, marker: str, color: str, label: str, name_offsets: tuple[int, ...]
) -> None:
    axes.errorbar(
        points.avg_bits,
        points.quality,
        yerr=points.error,
        fmt=marker,
        color=color,
        ms=6,
        mec="white",
        capsize=3,
        label=label,
        zorder=3,
    )
    if points.names is None:
        return
    halo = [withStroke(linewidth=2.5, foreground="white")]
    offsets = cycle(name_offsets)  # neighbours in size get different heights, so that names do not collide
    for index in np.argsort(points.avg_bits, kind="stable"):
        axes.annotate(
            points.names[index],
            (points.avg_bits[index], points.quality[index]),
            (0, next(offsets)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=color,
            path_effects=halo,
            zorder=4,
        )
