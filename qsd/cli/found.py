"""How the results of a search are told: tables and JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from qsd.cli.console import console, messages
from qsd.cli.tables import number_table
from qsd.labels.rounds import Round
from qsd.ranker.bounds import Answer, Bound
from qsd.search import Front


def rows_of(front: Front) -> list[dict[str, float | int]]:
    """Sizes and predictions of a front's members."""
    return [
        {
            "bytes": int(front.num_bytes[index]),
            "avg_bits": float(front.avg_bits[index]),
            "predicted": float(front.predicted[index]),
            "std": float(front.std[index]),
            **{name: float(values[index]) for name, values in front.objectives.items()},
        }
        for index in range(len(front))
    ]


def round_json(one: Round) -> dict[str, Any]:
    """What a round of verification found."""
    return {
        "predicted": one.predicted.tolist(),
        "measured": one.measured.tolist(),
        "optimism": one.optimism.tolist(),
        "winner": one.winner,
    }


def front_table(front: Front, target: str, out: str, answer: Answer | None = None) -> Table:
    """Sixteen members of a front at most; with how likely bounds hold, where there are any."""
    names = [*front.objectives, *(["holds"] if answer else [])]
    table = number_table(
        f"{out}: {len(front)} configs, predicted (not measured)",
        ("average bits", "bytes", "predicted", "std", *names),
        caption=f"target {target}",
    )
    rows = rows_of(front)
    for index in np.unique(np.linspace(0, len(rows) - 1, 16).round().astype(int)).tolist():
        row = rows[index]
        more = [f"{row[name]:.4g}" for name in front.objectives]
        more += [f"{answer.holds[index]:.0%}"] if answer else []
        table.add_row(
            *(f"{row['avg_bits']:.3f}", f"{row['bytes']:,}", f"{row['predicted']:.3f}", f"{row['std']:.3f}"),
            *more,
        )
    return table


def round_table(one: Round, number: int, target: str) -> Table:
    """The measured members of a round."""
    optimism = one.optimism
    table = number_table(
        f"round {number}: measured under fresh noise, {target}",
        ("average bits", "bytes", "predicted", "measured", "90 % interval"),
        caption=f"optimism (predicted - measured): winner {optimism[one.winner]:+.3f}, "
        f"mean {optimism.mean():+.3f}",
    )
    for place, member in enumerate(one.members):
        row = one.front.measured[member] or {}
        low, high = row.get("target_interval", (float("nan"), float("nan")))
        cells = (
            f"{one.front.avg_bits[member]:.3f}",
            f"{int(one.front.num_bytes[member]):,}",
            f"{one.predicted[place]:.3f}",
            f"{one.measured[place].mean():.3f}",
            f"{low:.3f} to {high:.3f}",
        )
        table.add_row(*cells, style="bold" if place == one.winner else None)
    return table


def say_answer(answer: Answer, bounds: Sequence[Bound], confidence: float) -> None:
    """Prints the smallest config with its bounds, and between which sizes the data cannot tell."""
    size, bits = int(answer.front.num_bytes[-1]), float(answer.front.avg_bits[-1])
    console.print(
        f"smallest with {' and '.join(map(str, bounds))}: {size:,} bytes, {bits:.3f} average bits, "
        f"probability {answer.probability:.0%} (asked {confidence:.0%})"
    )
    if answer.even is not None and answer.even < size:
        messages.print(
            f"between {answer.even:,} and {size:,} bytes the data cannot tell: it holds with less than "
            f"{confidence:.0%}; --verify measures there"
        )
