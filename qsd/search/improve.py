"""Local improvement: single and double option swaps, kept when the predictor likes them and they fit."""

from collections.abc import Callable

import numpy as np

from qsd.bank.sizes import config_bytes
from qsd.search.nsga2 import Mutations
from qsd.support.progress import Progress

PARENTS = 8
PATIENCE = 8


def improve(
    score: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    values: np.ndarray,
    rng: np.random.Generator,
    rounds: int = 40,
    proposals: int = 128,
    progress: Progress | None = None,
) -> np.ndarray:
    """Climbs from good configs towards the best quality at the budget.

    Each round proposes swaps of one or two layers of the best configs, three quarters of them the most
    promising by the additive approximation out of a larger random draw, the rest any that fit.
    Ends early when several rounds in a row bring nothing.

    Args:
        score: Predicted quality of int8 [n, L] configs, float [n], larger is better.
        start: int8 [s, L], configs within the budget.
        num_bytes: int64 [L, O].
        max_bytes: The budget, never exceeded.
        values: float [L, O], additive quality.
        rng: Where the randomness comes from.
        rounds: At most so many.
        proposals: Configs scored per round.
        progress: Called once per round.

    Returns:
        int8 [<= 8, L], the best found, best first.
    """
    best = np.unique(start, axis=0)
    quality = score(best)
    stale = 0
    for done in range(rounds):
        order = np.argsort(-quality, kind="stable")[:PARENTS]
        best, quality = best[order], quality[order]
        children = _proposals(best, num_bytes, max_bytes, values, proposals, rng)
        children_quality = score(children)
        improved = len(children) > 0 and children_quality.max() > quality[0]
        stale = 0 if improved else stale + 1
        best, first = np.unique(np.concatenate([best, children]), axis=0, return_index=True)
        quality = np.concatenate([quality, children_quality])[first]
        if progress is not None:
            progress(done + 1, rounds, f"best predicted quality {quality.max():.4g}")
        if stale == PATIENCE:
            break
    return best[np.argsort(-quality, kind="stable")[:PARENTS]]


def _proposals(
    parents: np.ndarray,
    num_bytes: np.ndarray,
    max_bytes: int,
    values: np.ndarray,
    n: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """At most `n` distinct neighbours of the parents that fit, int8 [<= n, L]."""
    num_layers, mutations = len(num_bytes), Mutations.make(num_bytes)
    drawn = 16 * n
    rows = np.arange(drawn)
    parent = rng.integers(len(parents), size=drawn)
    pool = parents[parent]
    for swap in range(2):
        layer = rng.integers(num_layers, size=drawn)
        option = mutations.options[layer, (rng.random(drawn) * mutations.count[layer]).astype(np.int64)]
        use = np.full(drawn, True) if swap == 0 else rng.random(drawn) < 0.7
        pool[rows[use], layer[use]] = option[use]
    gain = _additive(pool, values) - _additive(parents, values)[parent]
    keep = (config_bytes(pool, num_bytes) <= max_bytes) & (pool != parents[parent]).any(axis=1)
    pool, first = np.unique(pool[keep], axis=0, return_index=True)
    promising = np.argsort(-gain[keep][first], kind="stable")
    guided = promising[: 3 * n // 4]
    others = rng.permutation(promising[3 * n // 4 :])[: n - len(guided)]
    return pool[np.concatenate([guided, others])]


def _additive(configs: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values[np.arange(values.shape[0]), configs].sum(axis=-1)
