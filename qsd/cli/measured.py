"""The table of what configs measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from qsd.cli.tables import number_table
from qsd.evaluation import LABELS, headline

_FORMATS = {"kid": ".3f", "clip": ".1f", "agreement": ".1%", "psnr": ".1f", "latent_mse": ".2g"}


def measured_table(title: str, rows: Sequence[Mapping[str, Any]], bold: Sequence[str] = ()) -> Table:
    """Configs and what they measured.

    Args:
        title: over the table.
        rows: with ``name``, ``bytes``, ``avg_bits`` and the labels of :func:`qsd.labels.verify`.
        bold: names of rows that stand out.
    """
    first = headline(rows[0])
    labels = [label.name for label in LABELS if label.name in rows[0] and label.name != first]
    table = number_table(title, ("config", "bits", "MB", first, *labels))
    for row in rows:
        size = row["bytes"] / 1e6
        table.add_row(
            row["name"],
            f"{row['avg_bits']:.2f}",
            f"{size:.3f}" if size < 100 else f"{size:.0f}",
            f"{row[first]:.2f}±{row[f'{first}_std']:.2f}",
            *(format(row[label], _FORMATS[label]) for label in labels),
            style="bold" if row["name"] in bold else None,
        )
    return table
