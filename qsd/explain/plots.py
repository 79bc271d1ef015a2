"""Plots of an explanation: where the cost lies, what was chosen, what interacts, how well it is predicted."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import SymLogNorm

from qsd.explain.explanation import Explanation
from qsd.explain.groups import OUTSIDE, groups_of, membership
from qsd.explain.style import COLOURS, COLUMN, DIVERGING, HATCHES, SEQUENTIAL, figure
from qsd.search.posterior import Posterior

_MOST_TICKS = 12
_ROW = 0.16  # inches of a row with a name


def plot_boxes(found: Explanation, kind: str, path: Path) -> None:
    """One box per block (upright) or role (lying) of the costs of its layers' options around the config.

    Args:
        found: what was found.
        kind: block, role or stage.
        path: destination without suffix.
    """
    groups = groups_of(found.header.layers, kind)
    costs = [found.cost[members] for members in groups.values()]
    lying = kind == "role"
    height = 0.7 + _ROW * len(groups) if lying else 2.0
    with figure(path, height=height) as drawn:
        axes = drawn.add_subplot()
        axes.boxplot(
            costs,
            orientation="horizontal" if lying else "vertical",
            widths=0.6,
            patch_artist=True,
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "0.3"},
            medianprops={"color": "black", "linewidth": 1.1},
            boxprops={"facecolor": COLOURS[5], "linewidth": 0.6},
            whiskerprops={"linewidth": 0.6},
            capprops={"linewidth": 0.6},
        )
        names = list(groups)
        if lying:
            axes.set_yticks(range(1, len(names) + 1), names)
            axes.invert_yaxis()
            axes.set_xlabel("cost of a layer's option")
            _spread(axes, "x", found.cost)
        else:
            _ticks(axes, names, first=1)
            axes.set(xlabel=kind, ylabel="cost of a layer's option")
            _spread(axes, "y", found.cost)
        axes.grid(True, axis="x" if lying else "y", color="0.9", lw=0.5)
        axes.set_axisbelow(True)


def plot_choices(found: Explanation, configs: np.ndarray, path: Path) -> None:
    """Share of weights of each role that each option won, and its average bits.

    Args:
        found: layers and options.
        configs: int8 [n, L], of a front; one config is fine.
        path: destination without suffix.
    """
    header = found.header
    names, inside = membership(header.layers, "role")
    weights = header.num_weights.astype(np.float64)
    chosen = (configs[:, :, None] == np.arange(len(header.options))).mean(axis=0)
    shares = inside @ (weights[:, None] * chosen) / (inside @ weights)[:, None]
    sizes = np.where(header.num_bytes < 0, 0, header.num_bytes)
    bits = 8 * inside @ (sizes * chosen).sum(axis=1) / (inside @ weights)
    with figure(path, width=2 * COLUMN, height=0.9 + _ROW * len(names)) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=[3, 1], sharey=True)
        start = np.zeros(len(names))
        rows = np.arange(len(names))
        for place, (option, share) in enumerate(zip(header.options, shares.T, strict=True)):
            if not share.any():
                continue
            style = place % len(COLOURS)
            left.barh(
                *(rows, share, 0.75, start),
                color=COLOURS[style],
                hatch=HATCHES[style],
                edgecolor="white",
                linewidth=0.4,
                label=str(option),
            )
            start += share
        left.set_yticks(rows, names)
        left.invert_yaxis()
        left.set(xlim=(0, 1), xlabel="share of the role's weights")
        drawn.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
        right.barh(rows, bits, 0.75, color=COLOURS[6])
        for row, value in zip(rows, bits, strict=True):
            right.text(value, row, f" {value:.2f}", va="center", fontsize=6)
        right.set_xlim(0, bits.max() * 1.22)
        right.set_xlabel("average bits")
        right.tick_params(left=False)


def plot_heat_map(found: Explanation, path: Path) -> None:
    """Summed costs of layers by block and role."""
    blocks, in_block = membership(found.header.layers, "block")
    roles, in_role = membership(found.header.layers, "role")
    table = (in_role * found.cost) @ in_block.T.astype(np.float64)
    there = in_role.astype(np.int64) @ in_block.T.astype(np.int64) > 0
    width = max(COLUMN, min(2 * COLUMN, 1.6 + 0.16 * len(blocks)))
    with figure(path, width=width, height=0.8 + _ROW * len(roles)) as drawn:
        axes = drawn.add_subplot()
        shown = np.where(there, table, np.nan)
        linear, low, high = _linear_below(table[there]), np.nanmin(shown), np.nanmax(shown)
        norm = SymLogNorm(linear, vmin=low, vmax=high)
        image = axes.imshow(shown, cmap=SEQUENTIAL, aspect="auto", norm=norm)
        axes.set_facecolor("white")
        _ticks(axes, blocks)
        axes.set_yticks(range(len(roles)), roles)
        axes.set_xlabel("block")
        bar = drawn.colorbar(image, ax=axes, label="summed cost", shrink=0.9, pad=0.02)
        _mark_decades(bar, low, high, linear)


def plot_interactions(found: Explanation, path: Path, kind: str = "block") -> None:
    """How much the changes of groups add up or cancel beyond their own squared lengths.

    Args:
        found: of a probed store.
        path: destination without suffix.
        kind: block, role or stage.
    """
    if found.interactions is None:
        raise ValueError("interactions need a probed store")
    names, inside = membership(found.header.layers, kind)
    table = inside @ found.interactions @ inside.T.astype(np.float64)
    np.fill_diagonal(table, np.diag(table) / 2)  # pairs within a group count once
    reach = max(float(np.abs(table).max()), 1e-12)
    side = max(COLUMN, min(2 * COLUMN, 1.4 + 0.15 * len(names)))
    with figure(path, width=side, height=0.88 * side) as drawn:
        axes = drawn.add_subplot()
        linear = _linear_below(table)
        image = axes.imshow(table, cmap=DIVERGING, norm=SymLogNorm(linear, vmin=-reach, vmax=reach))
        _mark_negative(axes, table)
        _ticks(axes, names, rotation=0 if kind != "role" else 90)
        if kind == "role":
            axes.set_yticks(range(len(names)), names)
        else:
            step = _step(len(names))
            axes.set_yticks(range(0, len(names), step), _shown(names[::step]))
        axes.set(xlabel=kind, ylabel=kind)
        label = "adds up (+) or cancels (−)"
        bar = drawn.colorbar(image, ax=axes, label=label, shrink=0.85, pad=0.02)
        _mark_decades(bar, -reach, reach, linear)


def plot_calibration(
    posterior: Posterior, measured: np.ndarray, name: str, path: Path, other: np.ndarray | None = None
) -> None:
    """Predicted against measured, with the 90 % intervals of the predictions.

    Args:
        posterior: of n configs.
        measured: float64 [n].
        name: of the quantity.
        path: destination without suffix.
        other: bool [n], whether it was measured under another noise seed than what was learned from.
    """
    low, high = posterior.interval(0.9)
    held = (low <= measured) & (measured <= high)
    other = np.zeros(len(measured), dtype=bool) if other is None else other
    with figure(path, height=COLUMN * 0.95) as drawn:
        axes = drawn.add_subplot()
        for inside, marker, colour, label in (
            (held & ~other, "o", COLOURS[0], f"in its 90 % interval ({_share(held[~other])})"),
            (~held & ~other, "X", COLOURS[1], f"outside ({_share(~held[~other])})"),
            (other, "^", COLOURS[6], f"other noise seeds ({_share(held[other])} inside)"),
        ):
            if not inside.any():
                continue
            reach = np.abs(np.stack([low, high]) - posterior.mean)[:, inside]
            axes.errorbar(
                *(measured[inside], posterior.mean[inside]),
                yerr=reach,
                fmt=marker,
                color=colour,
                ecolor="0.75",
                elinewidth=0.6,
                ms=3,
                mew=0,
                label=label,
            )
        ends = [min(measured.min(), posterior.mean.min()), max(measured.max(), posterior.mean.max())]
        axes.plot(ends, ends, color="black", lw=0.7, ls="--", zorder=1)
        axes.set(xlabel=f"measured {name}", ylabel=f"predicted {name}")
        axes.legend(frameon=False, loc="best")


def plot_all(found: Explanation, folder: Path, configs: np.ndarray | None = None) -> list[str]:
    """Draws every plot that the explanation has numbers for, and returns their names.

    Args:
        found: what was found.
        folder: destination.
        configs: int8 [n, L], of a front; None for the config that is explained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot_boxes(found, "block", folder / "box-blocks")
    plot_boxes(found, "role", folder / "box-roles")
    plot_choices(found, found.config[None] if configs is None else configs, folder / "choices")
    plot_heat_map(found, folder / "heat-map")
    names = ["box-blocks", "box-roles", "choices", "heat-map"]
    if found.interactions is not None:
        plot_interactions(found, folder / "interactions-blocks")
        plot_interactions(found, folder / "interactions-roles", "role")
        names += ["interactions-blocks", "interactions-roles"]
    return names


def _linear_below(values: np.ndarray) -> float:
    """Where a symmetric logarithmic scale begins: few layers cost a hundred times what most cost."""
    sizes = np.abs(values)
    return max(float(np.quantile(sizes, 0.75)), 1e-3 * float(sizes.max()), 1e-12)


def _spread(axes: Axes, axis: str, values: np.ndarray) -> None:
    """A symmetric logarithmic axis where the largest value would press all others together."""
    linear = _linear_below(values)
    if np.abs(values).max() <= 10 * linear:
        return
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if axis == "x":
        axes.set_xscale("symlog", linthresh=linear, linscale=1.5)
        axes.set_xticks(_decades(low, high, linear))
        axes.set_xticks([], minor=True)
    else:
        axes.set_yscale("symlog", linthresh=linear, linscale=1.5)
        axes.set_yticks(_decades(low, high, linear))
        axes.set_yticks([], minor=True)


def _share(held: np.ndarray) -> str:
    return f"{held.mean():.0%}" if len(held) else ""


def _decades(low: float, high: float, linear: float) -> list[float]:
    """Ticks of a symmetric logarithmic scale: 0 and the powers of ten far enough from it to be read."""
    first, last = math.ceil(math.log10(0.3 * linear)), math.floor(math.log10(max(-low, high)))
    power = 10.0**last  # between two powers of ten the largest round number stands for them
    powers = [10.0**place for place in range(first, last + 1)] or [max(-low, high) // power * power]
    return [*(-power for power in reversed(powers) if -power >= low), 0.0, *(p for p in powers if p <= high)]


def _mark_decades(bar: Colorbar, low: float, high: float, linear: float) -> None:
    decades = _decades(min(low, 0.0), max(high, 0.0), linear)
    bar.set_ticks([tick for tick in decades if low <= tick <= high])
    bar.set_ticks([], minor=True)
    bar.outline.set_linewidth(0.4)


def _step(count: int) -> int:
    return -(-count // _MOST_TICKS)


def _ticks(axes: Axes, names: Sequence[str], first: int = 0, rotation: int = 0) -> None:
    step = 1 if rotation else _step(len(names))
    axes.set_xticks(range(first, first + len(names), step), _shown(names[::step]), rotation=rotation)


def _shown(names: Sequence[str]) -> list[str]:
    return ["out" if name == OUTSIDE else name for name in names]


def _mark_negative(axes: Axes, table: np.ndarray) -> None:
    """A sign on cancelling cells, which colours alone do not show in grey."""
    if len(table) > 40:
        return
    reach = np.abs(table).max()
    for row, column in zip(*np.nonzero(table < -0.02 * reach), strict=True):
        axes.text(column, row, "−", ha="center", va="center", fontsize=6)
