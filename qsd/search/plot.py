"""The Pareto plot: what was predicted and what was measured, against size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from qsd.search.front import Front
from qsd.search.posterior import Posterior
from qsd.support.files import atomic

_BLUE, _RED, _GREEN, _GREY = "#2166ac", "#b2182b", "#1b7837", "#8c8c8c"

_PLACES = tuple(
    ((across, up), side)
    for up in (0, 10, -10, 20, -20, 30, -30)
    for across, side in ((8, "left"), (-8, "right"))
)
"""Where a name may stand beside its point: offsets in points and alignment, best first."""
_MARKER = 12.0  # pixels


@dataclass(frozen=True)
class Points:
    """Measured configs to draw beside a front.

    Attributes:
        avg_bits: float [n].
        quality: float [n], in the unit of the front's predicted quality, larger is better.
        error: float [n], half the length of a bar such as a standard deviation over seeds, or None.
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
        _draw_measured(axes, uniform, "s", _GREEN, "uniform, measured")
    if winners is not None:
        _draw_measured(axes, winners, "D", _RED, "searched, measured")
    if front.meta.max_bits is not None:
        axes.axvline(front.meta.max_bits, color="black", lw=0.8, ls=":", label="budget")
    axes.set_xlabel("average bits per weight, codebooks and scales included")
    axes.set_ylabel(quality_label)
    if title:
        axes.set_title(title)
    axes.margins(x=0.08, y=0.14)
    axes.grid(True, color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", edgecolor="none", framealpha=0.9)
    axes.spines[["top", "right"]].set_visible(False)
    megabytes_per_bit = float(front.num_bytes[0] / front.avg_bits[0]) / 1e6

    def to_megabytes(bits: ArrayLike) -> np.ndarray:
        return np.asarray(bits) * megabytes_per_bit

    def to_bits(megabytes: ArrayLike) -> np.ndarray:
        return np.asarray(megabytes) / megabytes_per_bit

    top = axes.secondary_xaxis("top", functions=(to_megabytes, to_bits))
    top.set_xlabel("weights on disk, MB")
    _draw_names(figure, axes, [(winners, _RED), (uniform, _GREEN)])
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


def _draw_measured(axes: Axes, points: Points, marker: str, color: str, label: str) -> None:
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


def _draw_names(figure: Figure, axes: Axes, kinds: Sequence[tuple[Points | None, str]]) -> None:
    """Writes names beside points, each at the first of several places where it covers no point or name."""
    figure.draw_without_rendering()  # settles where everything stands
    halo = [withStroke(linewidth=2.5, foreground="white")]
    taken = [
        Bbox.from_bounds(x - _MARKER / 2, y - _MARKER / 2, _MARKER, _MARKER)
        for points, _ in kinds
        if points is not None
        for x, y in axes.transData.transform(np.column_stack([points.avg_bits, points.quality]))
    ]
    for points, color in kinds:
        if points is None or points.names is None:
            continue
        for index in np.argsort(points.avg_bits, kind="stable"):
            for offset, side in _PLACES:
                name = axes.annotate(
                    points.names[index],
                    (points.avg_bits[index], points.quality[index]),
                    offset,
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=8,
                    color=color,
                    path_effects=halo,
                    zorder=4,
                )
                box = name.get_window_extent()
                inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
                if inside and not any(box.overlaps(other) for other in taken):
                    break
                if (offset, side) != _PLACES[-1]:
                    name.remove()
            taken.append(box)
