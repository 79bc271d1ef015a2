"""How plots look: the width of a paper's column, colours that differ in lightness, hatches beside colours."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qsd.support.files import atomic

COLUMN = 3.4
"""Width of a column in inches."""
COLOURS = ("#08306b", "#d95f02", "#66a3d2", "#f2c14e", "#5e3c58", "#a6bddb", "#7f7f7f", "#e7e1d5")
"""Neighbours differ in lightness, so they differ in grey too."""
HATCHES = ("", "////", "", "....", "xxxx", "", "\\\\\\\\", "")
SEQUENTIAL = "cividis_r"
"""Rises evenly in lightness, and is seen alike by the colour-blind."""
DIVERGING = "PuOr_r"
FORMATS = ("png", "svg")
_RC: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "qsd",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextlib.contextmanager
def figure(path: Path, width: float = COLUMN, height: float = 2.2) -> Iterator[Figure]:
    """Yields a figure, which is written as ``path.png`` and ``path.svg`` when the block ends."""
    with rc_context(_RC):
        made = Figure(figsize=(width, height), dpi=300, layout="constrained")
        FigureCanvasAgg(made)
        yield made
        for kind in FORMATS:
            with atomic(path.with_name(f"{path.name}.{kind}")) as partial:
                made.savefig(
                    partial,
                    format=kind,
                    bbox_inches="tight",
                    pad_inches=0.03,
                    metadata={"Date": None} if kind == "svg" else None,
                )
