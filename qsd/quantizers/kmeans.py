"""Optimal one-dimensional k-means codebooks, for several numbers of levels at once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsd.quantizers import lloyd

MAX_POINTS = 1 << 16
"""Most points that the dynamic program takes; float16 and bfloat16 have no more distinct values."""

COARSE_POINTS = 4096


def kmeans_codebooks(rows: Tensor, sizes: Sequence[int], *, compiled: bool) -> dict[int, Tensor]:
    """Codebooks of least squared error, each row by itself.

    Exact if compiled and a row has at most 65,536 distinct values (Grønlund et al., "Fast exact k-means,
    k-medians and Bregman divergence clustering in 1D", arXiv 1701.07204). Otherwise a coarse dynamic program
    followed by Lloyd's iteration on the sorted values, within a small fraction of 1 % of the optimum.

    Args:
        rows: float32 [R, n], finite.
        sizes: Numbers of levels.
        compiled: Whether to use the numba kernels, on the CPU.

    Returns:
        For each size a float64 tensor [R, size] on the device of ``rows``, ascending; where a row needs fewer
        levels, entries repeat.
    """
    solve = _solve_compiled if compiled else _solve_torch
    books = solve(rows, sizes)
    # Clusters of equal values may have means that differ by rounding, in either direction.
    return {size: book.sort(dim=1).values for size, book in books.items()}


def _solve_torch(rows: Tensor, sizes: Sequence[int]) -> dict[int, Tensor]:
    return {size: lloyd.kmeans_codebooks(rows, size) for size in sizes}


def _solve_compiled(rows: Tensor, sizes: Sequence[int]) -> dict[int, Tensor]:
    from qsd.quantizers import kernels

    ordered = np.sort(rows.numpy(), axis=1)
    levels = np.array(sizes, np.int64)
    centroids = np.empty((len(rows), levels.sum()))
    if rows.shape[1] <= MAX_POINTS:
        kernels.kmeans_rows(ordered, levels, centroids)
    else:
        for row, found in zip(ordered, centroids, strict=True):
            _solve_long_row(row, levels, found)
    parts = torch.from_numpy(centroids).split(list(sizes), dim=1)
    return dict(zip(sizes, parts, strict=True))


def _solve_long_row(
    row: NDArray[np.float32], levels: NDArray[np.int64], centroids: NDArray[np.float64]
) -> None:
    """Solves one sorted row of any length: equal values are one point, and too many points are condensed."""
    from qsd.quantizers import kernels

    mean = row.mean(dtype=np.float64)
    ordered = torch.from_numpy(row - mean)[None]
    sums = lloyd.prefix_sums(ordered)
    edges = np.concatenate([[0], np.flatnonzero(row[1:] != row[:-1]) + 1, [len(row)]])
    exact = len(edges) <= MAX_POINTS + 1
    if not exact:
        edges = np.unique(lloyd.coarse_edges(ordered, COARSE_POINTS).numpy())
    points = sums[0].numpy()[edges], edges.astype(np.float64)
    starts = np.empty((levels.max(), len(edges)), np.int32)
    kernels.best_partitions(*points, None, levels.max(), starts)
    kernels.read_centroids(*points, starts, levels, centroids)
    if not exact:
        for found in np.split(centroids, np.cumsum(levels)[:-1]):
            found[:] = lloyd.refine(ordered, sums, torch.from_numpy(found)[None])[0].numpy()
    centroids += mean
