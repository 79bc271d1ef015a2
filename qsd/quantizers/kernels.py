"""The inner loops, compiled by numba. All release the interpreter lock, so that threads share the work.

Nothing is reordered by the compiler (no fastmath): the same weight has the same codes on every processor.
Sums over which a processor shall work on several numbers at a time are written in as many lanes.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

compiled = njit(nogil=True, cache=True, error_model="numpy")


@compiled
def best_partitions(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    inverses: NDArray[np.float64] | None,
    levels: int,
    starts: NDArray[np.int32],
) -> None:
    """Optimal contiguous partitions of sorted points into 1 to ``levels`` clusters.

    The squared error of a cluster is its sum of squares minus sum^2 / count, so the least error is the
    largest total of sum^2 / count. Row k of the dynamic program adds a last cluster to the best k clusters
    of every prefix. The start of that cluster grows with the prefix and with k, so each search is confined
    by its neighbours already found, at twice the stride, and by the row before (divide and conquer;
    Grønlund et al., "Fast exact k-means, k-medians and Bregman divergence clustering in 1D", arXiv
    1701.07204).

    Optimal partitions into m and into more clusters interleave: border b of the first lies at or before
    border b + d of the best partition into m + d clusters (Aggarwal, Schieber and Tokuyama, "Finding a
    minimum-weight k-link path in graphs with the concave Monge property", 1994). So each finished row
    tells from which prefix on the next one matters; shorter prefixes are left out, a third of all.

    Args:
        sums: float64 [n + 1], prefix sums of the sorted points, centred.
        counts: float64 [n + 1], prefix sums of their multiplicities.
        inverses: float64 [n + 1], inverses[i] = 1 / i, if all multiplicities are 1: saves the divisions.
        levels: Number of rows.
        starts: int32 [levels, n + 1], filled with the start of the last of k + 1 clusters of each prefix
            that matters.
    """
    n = len(sums) - 1
    best = np.zeros(n + 1)
    improved = np.zeros(n + 1)
    starts[0] = 0
    for i in range(1, n + 1):
        best[i] = sums[i] * sums[i] / counts[i]
    widest = 1
    while 2 * widest <= n:
        widest *= 2
    needed = 0
    for k in range(1, levels):
        row, before = starts[k], starts[k - 1]
        available = needed
        border = n
        for cluster in range(k - 1, max(2 * k + 1 - levels, 0) - 1, -1):
            border = starts[cluster, border]
        needed = max(needed, border)
        row[: needed + 1] = 0
        stride = widest
        while stride >= 1:
            skipped = max(0, (needed + stride - 1) // (2 * stride))
            for i in range((2 * skipped + 1) * stride, n + 1, 2 * stride):
                last = i - 1 if i + stride > n else min(i - 1, row[i + stride])
                first = min(last, max(available, row[i - stride], before[i]))
                end, top, start = sums[i], -1.0, first
                for j in range(first, last + 1):
                    total = end - sums[j]
                    if inverses is None:
                        gain = best[j] + total * total / (counts[i] - counts[j])
                    else:
                        gain = best[j] + total * total * inverses[i - j]
                    if gain > top:
                        top, start = gain, j
                improved[i] = top
                row[i] = start
            stride //= 2
        best[:] = improved


@compiled
def read_centroids(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    starts: NDArray[np.int32],
    levels: NDArray[np.int64],
    centroids: NDArray[np.float64],
) -> None:
    """Reads the best clusters off the filled table of :func:`best_partitions`, for each number of levels.

    Args:
        sums: As there.
        counts: As there.
        starts: As there.
        levels: int64 [K].
        centroids: float64 [sum of levels], filled with ascending means, one number of levels after the
            other; where fewer clusters are needed, the lowest repeats.
    """
    offset = 0
    for count in levels:
        end = len(sums) - 1
        for k in range(count - 1, -1, -1):
            if end > 0:
                start = starts[k, end]
                centroids[offset + k] = (sums[end] - sums[start]) / (counts[end] - counts[start])
                end = start
            else:
                centroids[offset + k] = centroids[offset + k + 1]
        offset += count


@compiled
def kmeans_rows(rows: NDArray[np.float32], levels: NDArray[np.int64], centroids: NDArray[np.float64]) -> None:
    """Exact k-means of each row by itself, for several numbers of levels from one dynamic program.

    Args:
        rows: float32 [R, n], each row sorted.
        levels: int64 [K].
        centroids: float64 [R, sum of levels], filled as :func:`read_centroids` does.
    """
    n = rows.shape[1]
    sums = np.zeros(n + 1)
    counts = np.arange(n + 1).astype(np.float64)
    inverses = 1 / counts
    starts = np.empty((levels.max(), n + 1), np.int32)
    for r in range(len(rows)):
        mean = 0.0
        for i in range(n):
            mean += rows[r, i]
        mean /= n
        for i in range(n):
            sums[i + 1] = sums[i] + (rows[r, i] - mean)
        best_partitions(sums, counts, inverses, levels.max(), starts)
        read_centroids(sums, counts, starts, levels, centroids[r])
        for k in range(centroids.shape[1]):
            centroids[r, k] += mean


@compiled
def total_of(values: NDArray[np.float32]) -> np.float32:
    """The sum of a vector, in sixteen lanes."""
    lanes = np.zeros(16, np.float32)
    whole = len(values) // 16
    for i in range(whole):
        for lane in range(16):
            lanes[lane] += values[16 * i + lane]
    total = np.float32(0)
    for lane in range(16):
        total += lanes[lane]
    for i in range(16 * whole, len(values)):
        total += values[i]
    return total


@compiled
def power_errors(
    rows: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.float32],
    bits: int,
    errors: NDArray[np.float32],
) -> None:
    """Sum of |e / scale|^2.4 over each row, for each candidate (scale, zero point) of uniform quantization.

    With u = x^(-1/5), x^2.4 is (x u)^3. u comes from the exponent bits of x and three Newton steps, which
    vectorises and is accurate to float32 rounding.

    Args:
        rows: float32 [R, n].
        scale: float32 [R, S], positive.
        zero_point: float32 [R, S], whole numbers.
        bits: Bits per code.
        errors: float32 [R, S], filled.
    """
    n = rows.shape[1]
    top = np.float32((1 << bits) - 1)
    error = np.empty(n, np.float32)
    error_bits = error.view(np.int32)
    root = np.empty(n, np.float32)
    root_bits = root.view(np.int32)
    for r in range(rows.shape[0]):
        for s in range(scale.shape[1]):
            inverse = np.float32(1) / scale[r, s]
            shift = zero_point[r, s]
            for i in range(n):
                exact = rows[r, i] * inverse + shift
                inside = min(max(exact, np.float32(0)), top)
                error[i] = abs(exact - np.float32(np.int32(inside + np.float32(0.5))))
            for i in range(n):
                root_bits[i] = np.int32(np.float32(1277912950) - np.float32(0.2) * np.float32(error_bits[i]))
            for i in range(n):
                u = root[i]
                for _ in range(3):
                    u2 = u * u
                    u = u * (np.float32(1.2) - np.float32(0.2) * error[i] * u2 * u2 * u)
                power = error[i] * u
                error[i] = power * power * power
            errors[r, s] = total_of(error)


@compiled
def encode_rows(rows: NDArray[np.float32], thresholds: NDArray[np.float32], codes: NDArray[np.uint8]) -> None:
    """Code of each weight: how many of its row's thresholds [R or 1, levels - 1] lie below it."""
    for r in range(rows.shape[0]):
        own = thresholds[min(r, len(thresholds) - 1)]
        row, code = rows[r], codes[r]
        code[:] = 0
        for threshold in own:
            for i in range(len(row)):
                code[i] += row[i] > threshold


@compiled
def fit_scales(
    values: NDArray[np.float32],
    anchors: NDArray[np.float32],
    factors: NDArray[np.float32],
    table: NDArray[np.float32],
    scales: NDArray[np.float32],
) -> None:
    """The scale of each group under which it keeps its direction best, for a given codebook.

    Quantized with the codebook q, a group v lies nearest to a multiple of itself where <q, v>^2 / <q, q> is
    largest; the scale of least squared error is then <q, v> / <q, q>.

    Args:
        values: float32 [G, n].
        anchors: float32 [G], scales to start from, not zero.
        factors: float32 [F], what anchors are multiplied by; all are tried.
        table: float32 [T], entries of the codebook nearest to T evenly spaced values from -2 to 2.
        scales: float32 [G], filled; the anchor where nothing is left of a group.
    """
    n = values.shape[1]
    last = np.float32(len(table) - 1)
    middle = np.float32(0.5) * last + np.float32(0.5)
    step = np.float32(0.25) * last
    for g in range(len(values)):
        row = values[g]
        best, scales[g] = np.float32(0), anchors[g]
        for f in range(len(factors)):
            inverse = step / (anchors[g] * factors[f])
            product, energy = np.float32(0), np.float32(0)
            for i in range(n):
                place = min(max(row[i] * inverse + middle, np.float32(0)), last)
                q = table[np.int32(place)]
                product += q * row[i]
                energy += q * q
            if energy > 0:
                kept = product * product / energy
                if kept > best:
                    best, scales[g] = kept, product / energy


@compiled
def encode_scaled(
    values: NDArray[np.float32],
    scales: NDArray[np.float32],
    book: NDArray[np.float32],
    codes: NDArray[np.uint8],
    restored: NDArray[np.float32],
) -> None:
    """Codes of the nearest entries of a codebook, scaled for each row, and the values they stand for.

    Args:
        values: float32 [R, n].
        scales: float32 [R], not zero.
        book: float32 [levels], ascending.
        codes: uint8 [R, n], filled.
        restored: float32 [R, n], filled.
    """
    thresholds = book[1:] / np.float32(2) + book[:-1] / np.float32(2)
    for r in range(len(values)):
        row, code, value = values[r], codes[r], restored[r]
        scale = scales[r]
        code[:] = 0
        for threshold in thresholds:
            border = threshold * scale
            if scale > 0:
                for i in range(len(row)):
                    code[i] += row[i] > border
            else:
                for i in range(len(row)):
                    code[i] += row[i] < border
        for i in range(len(row)):
            value[i] = book[code[i]] * scale


@compiled
def amplitudes(
    exact: NDArray[np.float32],
    restored: NDArray[np.float32],
    energy: NDArray[np.float64],
    kept: NDArray[np.float64],
) -> None:
    """<w, w> and <q, w> of each row of float32 [R, n], into float64 [R]."""
    for r in range(len(exact)):
        w, q = exact[r], restored[r]
        of_w, of_q = np.zeros(8), np.zeros(8)
        whole = len(w) // 8
        for i in range(whole):
            for lane in range(8):
                value = np.float64(w[8 * i + lane])
                of_w[lane] += value * value
                of_q[lane] += value * np.float64(q[8 * i + lane])
        for i in range(8 * whole, len(w)):
            of_w[0] += np.float64(w[i]) * np.float64(w[i])
            of_q[0] += np.float64(w[i]) * np.float64(q[i])
        energy[r], kept[r] = of_w.sum(), of_q.sum()
