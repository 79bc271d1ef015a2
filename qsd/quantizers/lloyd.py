"""Near-optimal one-dimensional k-means in plain torch, batched over rows, on any device.

Lloyd's iteration on sorted values needs no distances: clusters are ranges, their means are differences of
prefix sums, and their borders are found by bisection. Started from the best partition into coarse groups of
neighbouring values (a small dynamic program), it ends within a fraction of 1 % of the optimum.
"""

import torch
from torch import Tensor

COARSE_POINTS = 128
MAX_ITERATIONS = 300
MATRIX_ELEMENTS = 1 << 24  # of all rows solved at a time: 128 MiB per float64 matrix


def kmeans_codebooks(rows: Tensor, size: int) -> Tensor:
    """Codebooks of nearly least squared error, each row by itself.

    Args:
        rows: float32 [R, n], finite.
        size: Number of centroids.

    Returns:
        float64 [R, size], ascending, on the device of ``rows``.
    """
    points = min(rows.shape[1], max(COARSE_POINTS, 4 * size))
    together = max(1, MATRIX_ELEMENTS // max((points + 1) ** 2, rows.shape[1]))
    return torch.cat([_solve(part, size, points) for part in rows.split(together)])


def _solve(rows: Tensor, size: int, points: int) -> Tensor:
    ordered = rows.double().sort(dim=1).values
    mean = ordered.mean(dim=1, keepdim=True)
    ordered -= mean
    sums = prefix_sums(ordered)
    edges = coarse_edges(ordered, points)
    borders = edges.gather(1, coarse_partition(sums.gather(1, edges), edges.double(), size))
    lowest = ordered.gather(1, borders[:, :-1].clamp(max=ordered.shape[1] - 1))
    return refine(ordered, sums, _means(sums, borders, lowest)) + mean


def prefix_sums(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, ..., n values of each row: [R, n] to [R, n + 1]."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def coarse_edges(ordered: Tensor, points: int) -> Tensor:
    """Borders of groups of neighbours: half of equal count, half of equal width, so that neither the
    crowded middle nor the sparse tails are cut too coarsely.

    Args:
        ordered: Sorted values [R, n].
        points: Number of groups, some of them empty.

    Returns:
        int64 [R, points + 1], ascending positions from 0 to n.
    """
    count = ordered.shape[1]
    if points >= count:
        return torch.arange(count + 1, device=ordered.device).expand(len(ordered), -1).contiguous()
    wide = torch.linspace(0, 1, points // 2 + 2, dtype=ordered.dtype, device=ordered.device)[1:-1]
    low, high = ordered[:, :1], ordered[:, -1:]
    by_width = torch.searchsorted(ordered, low + (high - low) * wide)
    even = torch.linspace(0, count, points + 1 - points // 2, dtype=torch.float64, device=ordered.device)
    by_count = even.round().long().expand(len(ordered), -1)
    return torch.cat([by_width, by_count], dim=1).sort(dim=1).values


def coarse_partition(sums: Tensor, counts: Tensor, size: int) -> Tensor:
    """Optimal partition into ``size`` clusters of groups with prefix sums and counts [R, m + 1].

    Returns:
        int64 [R, size + 1]: positions of the clusters' borders, from 0 to m.
    """
    total = sums[:, None, :] - sums[:, :, None]
    count = counts[:, None, :] - counts[:, :, None]
    backwards = torch.where(count < 0, -torch.inf, 0.0)
    gain = torch.where(count > 0, total.square() / count, backwards)
    best, choices = gain[:, 0, :], []
    for _ in range(size - 1):
        best, choice = (best[:, :, None] + gain).max(dim=1)
        choices.append(choice)
    end = torch.full_like(choices[0][:, :1], sums.shape[1] - 1)
    borders = [end]
    for choice in reversed(choices):
        end = choice.gather(1, end)
        borders.append(end)
    return torch.cat([torch.zeros_like(end), *reversed(borders)], dim=1)


def refine(ordered: Tensor, sums: Tensor, means: Tensor) -> Tensor:
    """Lloyd's iteration until no border moves.

    Args:
        ordered: float64 [R, n], sorted.
        sums: float64 [R, n + 1], their prefix sums.
        means: float64 [R, size], ascending, to start from.

    Returns:
        float64 [R, size], ascending means; an empty cluster keeps the mean that it had last.
    """
    count = ordered.shape[1]
    borders = torch.empty(0, dtype=torch.int64, device=ordered.device)
    for _ in range(MAX_ITERATIONS):
        inner = torch.searchsorted(ordered, (means[:, 1:] + means[:, :-1]) / 2)
        moved = torch.nn.functional.pad(torch.nn.functional.pad(inner, (1, 0)), (0, 1), value=count)
        if torch.equal(moved, borders):
            break
        borders = moved
        means = _means(sums, borders, means)
    return means


def _means(sums: Tensor, borders: Tensor, otherwise: Tensor) -> Tensor:
    """Mean of each range between borders [R, size + 1]; ``otherwise`` [R, size] where it is empty."""
    counts = borders.diff(dim=1)
    return torch.where(counts > 0, sums.gather(1, borders).diff(dim=1) / counts, otherwise)
