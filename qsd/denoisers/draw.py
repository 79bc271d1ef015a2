"""Draws the graph of a denoiser: one column per block, data flowing down, weights coloured by role."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from qsd.denoisers.graph import WEIGHT, Graph, Node
from qsd.denoisers.roles import ROLES
from qsd.support.errors import QsdError

_SYMBOLS = {"add": "+", "mul": "×", "modulate": "mod", "concat": "cat", "matmul": "@"}
_BOX_WIDTH, _BOX_HEIGHT, _COLUMN_GAP = 0.92, 0.46, 1.0
_INCHES_PER_UNIT = 0.8
_EDGE, _FAR_EDGE = "#555555", "#b9b9b9"

Color = tuple[float, float, float]
Positions = dict[int, tuple[float, float]]


def draw(graph: Graph, path: str | Path, *, block: int | None = None) -> None:
    """Draws a graph into a file.

    Args:
        graph: a traced graph.
        path: file to write; its suffix names the format (.svg, .png, .pdf).
        block: draw this block only, with the outside nodes that it reads in grey.

    Raises:
        QsdError: there is no such block.
    """
    columns = _columns(graph) if block is None else [_one_block(graph, block)]
    positions, width, height = _layout(graph, columns)
    figure = Figure(
        figsize=(_INCHES_PER_UNIT * (width + 2.5), _INCHES_PER_UNIT * (height + 1)), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.3, width)
    axes.set_ylim(-height, 1)
    colors = _role_colors(graph)
    _draw_edges(axes, graph, positions, columns)
    for index, place in positions.items():
        is_outside = block is not None and graph.nodes[index].block != block
        _draw_node(axes, graph.nodes[index], place, colors, is_outside)
    for column in columns:
        _draw_title(axes, graph, positions, column, block)
    inside = {graph.nodes[index].role for index in positions if block in (None, graph.nodes[index].block)}
    shown = [role for role in colors if role in inside]
    handles = [
        Line2D([], [], marker="s", linestyle="", markersize=10, color=colors[role], label=role)
        for role in shown
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9, title="weights")
    is_svg = Path(path).suffix == ".svg"
    with matplotlib.rc_context({"svg.hashsalt": "qsd", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if is_svg else None, dpi=110)


def _columns(graph: Graph) -> list[list[int]]:
    """Consecutive runs of nodes of one block."""
    columns: list[list[int]] = []
    for index, node in enumerate(graph.nodes):
        if columns and graph.nodes[columns[-1][-1]].block == node.block:
            columns[-1].append(index)
        else:
            columns.append([index])
    return columns


def _one_block(graph: Graph, block: int) -> list[int]:
    """The nodes of a block and the outside nodes that they read."""
    inside = {index for index, node in enumerate(graph.nodes) if node.block == block}
    if not inside:
        last = max(node.block for node in graph.nodes)
        raise QsdError(f"there is no block {block}; the blocks of this denoiser are 0 to {last}")
    outside = {int(source) for source, target in graph.edge_index.T if target in inside}
    return sorted(inside | outside)


def _layout(graph: Graph, columns: list[list[int]]) -> tuple[Positions, float, float]:
    """Places every node; returns the places, the width and the height of the drawing in units."""
    positions: Positions = {}
    left, deepest = 0.0, 0
    for column in columns:
        rows = _rows(graph, column)
        widest = max(len(row) for row in rows)
        for depth, row in enumerate(rows):
            ordered = sorted(
                row, key=lambda index: _mean_source(graph, positions, index, left + (widest - 1) / 2)
            )
            for place, index in enumerate(ordered):
                positions[index] = (left + (widest - len(row)) / 2 + place, -float(depth))
        left += widest - 1 + _COLUMN_GAP + 1
        deepest = max(deepest, len(rows))
    return positions, left, float(deepest)


def _rows(graph: Graph, column: list[int]) -> list[list[int]]:
    """The nodes of a column by the longest path to them; those without a path stand above their readers."""
    members = set(column)
    row_of: dict[int, int] = {}
    for index in column:
        sources = (int(source) for source in graph.edge_index[0, graph.edge_index[1] == index])
        row_of[index] = max((row_of[source] + 1 for source in sources if source in members), default=0)
    for index in (index for index in column if row_of[index] == 0):
        readers = (int(target) for target in graph.edge_index[1, graph.edge_index[0] == index])
        row_of[index] = max(
            min((row_of[reader] for reader in readers if reader in members), default=1) - 1, 0
        )
    rows: list[list[int]] = [[] for _ in range(max(row_of.values()) + 1)]
    for index, row in row_of.items():
        rows[row].append(index)
    return rows


def _mean_source(graph: Graph, positions: Positions, index: int, default: float) -> float:
    sources = graph.edge_index[0, graph.edge_index[1] == index]
    places = [positions[int(source)][0] for source in sources if int(source) in positions]
    return float(np.mean(places)) if places else default


def _role_colors(graph: Graph) -> dict[str, Color]:
    """Role -> colour, the same for every denoiser that has the same roles, in the order of the vocabulary."""
    present = {node.role for node in graph.nodes if node.kind == WEIGHT}
    roles = [role for role in ROLES if role in present]
    palette = (*matplotlib.colormaps["tab20"].colors, *matplotlib.colormaps["tab20b"].colors)  # type: ignore[attr-defined]
    return {role: palette[place % len(palette)] for place, role in enumerate(roles)}


def _drawn_edges(graph: Graph, positions: Positions) -> Iterator[tuple[int, int]]:
    for source, target in graph.edge_index.T.tolist():
        if source in positions and target in positions:
            yield source, target


def _draw_edges(axes: Axes, graph: Graph, positions: Positions, columns: list[list[int]]) -> None:
    """Edges inside of a column are dark; edges between columns are pale curves behind everything."""
    column_of = {index: place for place, column in enumerate(columns) for index in column}
    for source, target in _drawn_edges(graph, positions):
        is_near = column_of[source] == column_of[target]
        (x0, y0), (x1, y1) = positions[source], positions[target]
        is_long = is_near and y0 - y1 > 1.5
        bend = min(0.3, 1.7 / (y0 - y1)) if is_long else 0.0 if is_near else 0.08
        start, end = (y0 - _BOX_HEIGHT / 2, y1 + _BOX_HEIGHT / 2) if is_near else (y0, y1 + _BOX_HEIGHT / 2)
        axes.add_patch(
            FancyArrowPatch(
                (x0, start),
                (x1, end),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=7,
                linewidth=0.9 if is_near else 0.6,
                color=_EDGE if is_near else _FAR_EDGE,
                zorder=2 if is_near else 1,
                shrinkA=0,
                shrinkB=0,
            )
        )


def _draw_node(
    axes: Axes, node: Node, place: tuple[float, float], colors: dict[str, Color], is_outside: bool
) -> None:
    x, y = place
    is_weight = node.kind == WEIGHT
    width = _BOX_WIDTH if is_weight else _BOX_WIDTH / 2
    fill = "#eeeeee" if is_outside else colors[node.role] if is_weight else "white"
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.06, y - _BOX_HEIGHT / 2 + 0.06),
            width - 0.12,
            _BOX_HEIGHT - 0.12,
            boxstyle="round,pad=0.06",
            facecolor=fill,
            edgecolor="#333333",
            linewidth=0.8,
            linestyle="--" if is_outside else "-",
            zorder=3,
        )
    )
    text = _weight_label(node) if is_weight else _SYMBOLS.get(node.kind, node.kind.upper())
    axes.text(x, y, text, ha="center", va="center", fontsize=6.5, zorder=4)


def _weight_label(node: Node) -> str:
    """The role on two lines, and the range of a segment."""
    label = node.role.replace(".", "\n", 1) if "." in node.role else node.role.replace("_", "\n", 1)
    return f"{label} [{node.name.split('[', 1)[1]}" if "[" in node.name else label


def _draw_title(axes: Axes, graph: Graph, positions: Positions, column: list[int], block: int | None) -> None:
    number = graph.nodes[column[0]].block if block is None else block
    if number < 0:
        return
    middle = float(np.mean([positions[index][0] for index in column]))
    axes.text(middle, 0.62, f"block {number}", ha="center", va="center", fontsize=10, weight="bold")
