"""The additive approximation: quality as a sum over layers, and its best configs under a byte budget.

With quality = sum of values[l, config[l]] the search is a multiple-choice knapsack. Its Lagrangian relaxation
decouples the layers, so sweeping the multiplier gives the upper convex hull of the (bytes, quality) front in
one sort.
"""

from itertools import pairwise

import numpy as np

from qsd.bank.sizes import config_bytes
from qsd.support.errors import QsdError

_RIDGE_GRID = np.logspace(-4, 4, 25)


def fit_additive(configs: np.ndarray, quality: np.ndarray, num_options: int) -> np.ndarray:
    """Ridge regression of quality on one-hot configs; the penalty by generalized cross-validation.

    Args:
        configs: int8 [n, L].
        quality: float [n], larger is better.
        num_options: O.

    Returns:
        float64 [L, O]; each layer's values are relative to the mean over the configs given.
    """
    n, num_layers = configs.shape
    one_hot = (configs[:, :, None] == np.arange(num_options)).reshape(n, -1).astype(np.float64)
    centred = one_hot - one_hot.mean(axis=0)
    target = np.asarray(quality, dtype=np.float64) - np.mean(quality)
    wide = n <= centred.shape[1]  # the smaller of the two Gram matrices has the same eigenvalues
    eigen, basis = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    keep = eigen > 1e-9 * max(float(eigen[-1]), 1.0)
    eigen, basis = eigen[keep], basis[:, keep]
    projected = basis.T @ (target if wide else centred.T @ target)
    power = projected**2 if wide else projected**2 / eigen  # of the target, by eigenvector
    outside = float(target @ target - power.sum())
    scores = []
    for penalty in _RIDGE_GRID:
        shrink = penalty / (eigen + penalty)
        freedom = 1 + float(np.sum(1 - shrink))  # 1 for the mean
        scores.append((outside + float(shrink**2 @ power)) / max(n - freedom, 1e-9) ** 2)
    penalty = _RIDGE_GRID[int(np.argmin(scores))]
    solution = basis @ (projected / (eigen + penalty))
    weights = centred.T @ solution if wide else solution
    return weights.reshape(num_layers, num_options)


def lagrangian_front(values: np.ndarray, num_bytes: np.ndarray) -> np.ndarray:
    """All configs that maximise sum(values) - lambda * bytes for some lambda > 0, from smallest to largest.

    Args:
        values: float [L, O], additive quality, larger is better.
        num_bytes: int64 [L, O], -1 where an option is not available.

    Returns:
        int8 [k, L]; sizes and additive quality both increase along k, k <= 1 + L * (O - 1).
    """
    steps: list[tuple[float, int, int]] = []
    first = np.empty(len(values), dtype=np.int8)
    for layer, (layer_values, layer_bytes) in enumerate(zip(values, num_bytes, strict=True)):
        hull = _upper_hull(layer_values, layer_bytes)
        first[layer] = hull[0]
        for here, there in pairwise(hull):
            slope = (layer_values[there] - layer_values[here]) / float(layer_bytes[there] - layer_bytes[here])
            steps.append((-slope, layer, there))
    steps.sort()  # within a layer slopes fall, so its steps stay in order
    configs = np.repeat(first[None, :], len(steps) + 1, axis=0)
    for row, (_, layer, option) in enumerate(steps, start=1):
        configs[row:, layer] = option
    return configs


def greedy_fill(values: np.ndarray, num_bytes: np.ndarray, max_bytes: int) -> np.ndarray:
    """Walks from the smallest config by the best gain per byte, taking each step that still fits.

    Args:
        values: float [L, O], larger is better.
        num_bytes: int64 [L, O].
        max_bytes: The budget, never exceeded.

    Returns:
        int8 [L].

    Raises:
        QsdError: No config fits.
    """
    front = lagrangian_front(values, num_bytes)
    config = front[0].copy()
    size = int(config_bytes(config, num_bytes))
    if size > max_bytes:
        raise QsdError(
            f"budget: {max_bytes} bytes is below the smallest possible size, {size} bytes; raise the budget"
        )
    for before, after in pairwise(front):
        layer = int(np.flatnonzero(before != after)[0])
        bigger = size + int(num_bytes[layer, after[layer]] - num_bytes[layer, config[layer]])
        if bigger <= max_bytes and values[layer, after[layer]] > values[layer, config[layer]]:
            config[layer], size = after[layer], bigger
    return config


def _upper_hull(layer_values: np.ndarray, layer_bytes: np.ndarray) -> list[int]:
    """Options on the upper convex hull of (bytes, value), from the smallest, values rising."""
    hull: list[int] = []
    for option in np.lexsort((-layer_values, layer_bytes)):
        if layer_bytes[option] < 0 or layer_values[option] == -np.inf:
            continue
        if hull and layer_values[option] <= layer_values[hull[-1]]:
            continue
        while len(hull) >= 2 and _below(hull[-2], hull[-1], option, layer_values, layer_bytes):
            hull.pop()
        hull.append(int(option))
    return hull


def _below(a: int, b: int, c: int, layer_values: np.ndarray, layer_bytes: np.ndarray) -> bool:
    """Whether point b lies on or below the line from a to c, all as (bytes, value)."""
    rise_b, run_b = layer_values[b] - layer_values[a], float(layer_bytes[b] - layer_bytes[a])
    rise_c, run_c = layer_values[c] - layer_values[a], float(layer_bytes[c] - layer_bytes[a])
    return bool(rise_b * run_c <= rise_c * run_b)
