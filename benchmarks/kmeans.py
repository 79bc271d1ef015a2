"""K-means codebooks of one layer: exact and shared across options, against scikit-learn channel by channel.

One thread each, in seconds of processor time, so that other programs disturb neither. Ours is all that
`quantize` does: sorting, solving, encoding and packing of the four options; scikit-learn is only fitted.
Errors are those of the codebooks as solved, before either is rounded to 16 bits; `bank.py` runs it.
"""

import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans

from qsd.quantizers import parse_options, quantize
from qsd.quantizers.kmeans import kmeans_codebooks

OPTIONS = parse_options(["kmeans_c-3", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4"])
LEAST_SPEEDUP = 10.0
ROUNDING = 1e-9  # both errors are float64 sums


def compare(weight: torch.Tensor) -> dict[str, Any]:
    """Times and squared errors of the four k-means options of one weight [O, I], on one thread.

    Returns:
        ``seconds``, ``sklearn_seconds``, ``speedup``, ``worst_ratio`` (largest ratio of our squared error to
        scikit-learn's over all channels and options) and ``options``, a list of the same by option.
    """
    quantize(weight[:2], OPTIONS)  # numba compiles at the first call, once per installation
    begin = time.process_time()
    quantize(weight, OPTIONS)
    seconds = time.process_time() - begin
    rows = []
    for option in OPTIONS:
        channels = weight.reshape(1, -1) if option.traits.scope == "tensor" else weight
        ours = squared_errors(
            channels, kmeans_codebooks(channels, [option.levels], compiled=True)[option.levels]
        )
        begin = time.process_time()
        fitted = [KMeans(option.levels, random_state=0).fit(row.reshape(-1, 1)) for row in channels.numpy()]
        elapsed = time.process_time() - begin
        centers = torch.tensor(np.stack([np.sort(fit.cluster_centers_[:, 0]) for fit in fitted]))
        theirs = squared_errors(channels, centers.double())
        rows.append(
            {
                "option": str(option),
                "sklearn_seconds": elapsed,
                "squared_error": ours.sum().item(),
                "sklearn_squared_error": theirs.sum().item(),
                "worst_ratio": (ours / theirs).max().item(),
            }
        )
    sklearn_seconds = sum(row["sklearn_seconds"] for row in rows)
    return {
        "shape": list(weight.shape),
        "seconds": seconds,
        "sklearn_seconds": sklearn_seconds,
        "speedup": sklearn_seconds / seconds,
        "worst_ratio": max(row["worst_ratio"] for row in rows),
        "options": rows,
    }


def squared_errors(rows: torch.Tensor, books: torch.Tensor) -> torch.Tensor:
    """Squared error of each row [R, n] with the nearest value of its codebook [R, levels], float64 [R]."""
    values = rows.double()
    codes = torch.searchsorted((books[:, 1:] + books[:, :-1]) / 2, values)
    return (values - books.gather(1, codes)).square().sum(dim=1)


def print_table(result: dict[str, Any]) -> None:
    """The comparison as a table on the console."""
    table = Table(title=f"k-means of a {' x '.join(map(str, result['shape']))} weight, one thread each")
    for heading in ("option", "scikit-learn s", "its error", "our error", "worst channel, ours / its"):
        table.add_column(heading, justify="left" if heading == "option" else "right")
    for row in result["options"]:
        table.add_row(
            row["option"],
            f"{row['sklearn_seconds']:.2f}",
            f"{row['sklearn_squared_error']:.6g}",
            f"{row['squared_error']:.6g}",
            f"{row['worst_ratio']:.10f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"scikit-learn {result['sklearn_seconds']:.2f} s, ours {result['seconds']:.2f} s for all four: "
        f"{result['speedup']:.0f} times faster"
    )
