"""Search over weights and activations together, under several budgets at once.

A gene is a layer's pair of options. Seeds come from an additive approximation of the quality, Lagrangian
multipliers swept over all budgets; evolution and local improvement go on from there, and whatever exceeds a
budget is brought back by the switches that cost least quality. Every few generations the approximation is
made anew of what single switches of the best config bring, and steps towards its optimum are tried.
"""

import dataclasses
from collections.abc import Callable

import numba
import numpy as np

from qsd.search.costs import JointCosts
from qsd.search.lagrangian import fit_additive
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

_EVERY = 5  # generations
_OPTIMA = 8  # of the additive approximation, each the start of one step of each length
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the layers that a step takes from one

Score = Callable[[np.ndarray], np.ndarray]
"""Pairs int64 [n, L] -> predicted quality float [n], larger is better."""


@dataclasses.dataclass(frozen=True)
class JointSettings:
    """How much to search.

    Attributes:
        samples: random configs that the additive approximation is fitted to.
        population: configs per generation.
        generations: how many.
    """

    samples: int = 2000
    population: int = 128
    generations: int = 60


@dataclasses.dataclass(frozen=True)
class JointResult:
    """The best config found.

    Attributes:
        pairs: int64 [L].
        predicted: its predicted quality.
        costs: by name of the cost.
        evaluations: configs that were predicted.
    """

    pairs: np.ndarray
    predicted: float
    costs: dict[str, float]
    evaluations: int


def joint_search(
    score: Score,
    costs: JointCosts,
    random_pairs: np.ndarray,
    *,
    settings: JointSettings = JointSettings(),
    seed: int = 0,
    progress: Progress | None = None,
) -> JointResult:
    """Searches the pairs of highest predicted quality that keep every budget.

    Args:
        score: predicts the quality.
        costs: of pairs, with their limits.
        random_pairs: int64 [n, L], to fit the additive approximation to.
        settings: how much to search.
        seed: equal seeds give equal results.
        progress: called per generation.

    Raises:
        QsdError: no config was found that keeps all budgets together.
    """
    rng = np.random.default_rng(seed)
    able = np.isfinite(costs.tables[0])
    values = np.where(able, fit_additive(random_pairs, score(random_pairs), costs.tables.shape[2]), -np.inf)
    evaluations = len(random_pairs)
    population = _repaired(np.concatenate([_sweep(values, costs), random_pairs[:64]]), values, costs, rng)
    population = np.unique(population[costs.fits(population)], axis=0)
    if not len(population):
        raise QsdError("budget: no config keeps all budgets together; raise one of them")
    quality = score(population)
    evaluations += len(population)
    for generation in range(settings.generations):
        order = np.argsort(-quality, kind="stable")[: settings.population]
        population, quality = population[order], quality[order]
        children = _repaired(_offspring(population, able, rng, settings.population), values, costs, rng)
        children = np.concatenate([children, _neighbours(population[:8], values, costs, able, rng)])
        if generation % _EVERY == _EVERY - 1:
            values = _gains(score, population[0], quality[0], able)
            evaluations += int(able.sum())
            children = np.concatenate([children, _steps(population[0], values, costs, rng)])
        children = np.unique(children[costs.fits(children)], axis=0)
        known = {row.tobytes() for row in population}
        children = children[[row.tobytes() not in known for row in children]]
        if len(children):
            evaluations += len(children)
            population = np.concatenate([population, children])
            quality = np.concatenate([quality, score(children)])
        if progress:
            progress(generation + 1, settings.generations, f"best predicted quality {quality.max():.4g}")
    best = int(quality.argmax())
    total = costs.of(population[best][None])[:, 0]
    by_name = dict(zip(costs.names, total.tolist(), strict=True))
    return JointResult(population[best], float(quality[best]), by_name, evaluations)


def _gains(score: Score, best: np.ndarray, quality: float, able: np.ndarray) -> np.ndarray:
    """What every single switch of a config brings, float64 [L, P]; -infinity where a layer lacks a pair."""
    layer, pair = np.nonzero(able)
    switched = np.repeat(best[None, :], len(layer), axis=0)
    switched[np.arange(len(layer)), layer] = pair
    gains = np.full(able.shape, -np.inf)
    gains[layer, pair] = score(switched) - quality
    return gains


def _steps(best: np.ndarray, gains: np.ndarray, costs: JointCosts, rng: np.random.Generator) -> np.ndarray:
    """Steps of all lengths from a config towards the best additive ones within the budgets, int64 [n, L]."""
    optima = _sweep(gains, costs)[:_OPTIMA]
    taken = [rng.random((len(optima), len(best))) < share for share in _SHARES]
    return _repaired(np.concatenate([np.where(mask, optima, best) for mask in taken]), gains, costs, rng)


def _sweep(values: np.ndarray, costs: JointCosts) -> np.ndarray:
    """The best additive pairs for many multipliers of the budgets that bind, int64 [m, L]."""
    bounded = np.flatnonzero(np.isfinite(costs.limits))
    if not len(bounded):
        return values.argmax(axis=1)[None]
    unit = np.where(np.isfinite(costs.tables), costs.tables, 0.0)[bounded] / costs.limits[bounded, None, None]
    reach = np.ptp(np.where(np.isfinite(values), values, np.nan_to_num(values, neginf=0.0)), axis=1).sum()
    grid = reach * np.concatenate([[0.0], np.logspace(-3, 2, 24 if len(bounded) > 1 else 96)])
    found = []
    for multipliers in np.stack(np.meshgrid(*[grid] * len(bounded)), -1).reshape(-1, len(bounded)):
        found.append((values - np.tensordot(multipliers, unit, 1)).argmax(axis=1))
    pairs = np.unique(np.array(found), axis=0)
    over = costs.excess(pairs).max(axis=0)
    return pairs[np.argsort(over + 0.1 * (over > 0), kind="stable")[:256]]


def _repaired(
    pairs: np.ndarray, values: np.ndarray, costs: JointCosts, rng: np.random.Generator
) -> np.ndarray:
    """Pairs [n, L] brought within the budgets, as far as switches of one layer at a time can.

    A switch gives up the least additive quality per excess saved; for half of the configs that price is
    disturbed at random, which keeps a population diverse.
    """
    pairs = np.ascontiguousarray(pairs, dtype=np.int64).copy()
    bound = np.flatnonzero(np.isfinite(costs.limits))
    if len(bound):
        relative = costs.tables[bound] / costs.limits[bound, None, None]
        finite = np.where(np.isfinite(values), values, -1e30)
        greedy = rng.random(len(pairs)) < 0.5
        _repair(pairs, np.ascontiguousarray(relative), finite, greedy, int(rng.integers(2**31)))
    return pairs


@numba.njit(cache=True)
def _repair(
    pairs: np.ndarray, relative: np.ndarray, values: np.ndarray, greedy: np.ndarray, seed: int
) -> None:
    """The loops of :func:`_repaired`; ``relative`` float64 [C, L, P] are costs in shares of their limits."""
    np.random.seed(seed)  # noqa: NPY002 (numba's own generator)
    kinds, layers, options = relative.shape
    for row in range(len(pairs)):
        total = np.zeros(kinds)
        for kind in range(kinds):
            for layer in range(layers):
                total[kind] += relative[kind, layer, pairs[row, layer]]
        for _ in range(8 * layers):
            excess = np.maximum(total - 1.0, 0.0)
            if not excess.any():
                break
            best, best_layer, best_option = np.inf, -1, -1
            for layer in range(layers):
                now = pairs[row, layer]
                for option in range(options):
                    saved = 0.0
                    for kind in range(kinds):
                        saved += excess[kind] * (relative[kind, layer, now] - relative[kind, layer, option])
                    if not saved > 1e-18 or values[layer, option] < -1e29:
                        continue
                    price = (max(values[layer, now] - values[layer, option], 0.0) + 1e-9) / saved
                    if not greedy[row]:
                        price *= np.random.exponential()  # noqa: NPY002
                    if price < best:
                        best, best_layer, best_option = price, layer, option
            if best_layer < 0:
                break
            for kind in range(kinds):
                total[kind] += (
                    relative[kind, best_layer, best_option]
                    - relative[kind, best_layer, pairs[row, best_layer]]
                )
            pairs[row, best_layer] = best_option


def _offspring(parents: np.ndarray, able: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Tournaments, uniform crossover, and about two mutations each, int64 [n, L]; parents best first."""
    layers = parents.shape[1]
    winners = rng.integers(len(parents), size=(2, n, 2)).min(axis=2)
    from_second = (rng.random((n, layers)) < 0.5) & (rng.random((n, 1)) < 0.8)
    children = np.where(from_second, parents[winners[1]], parents[winners[0]])
    mutate = rng.random((n, layers)) < 2.0 / layers
    drawn = np.where(able[None], rng.random((n, *able.shape)), -1.0).argmax(axis=2)
    return np.where(mutate, drawn, children)


def _neighbours(
    parents: np.ndarray, values: np.ndarray, costs: JointCosts, able: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Parents with one or two layers changed, those that promise most and fit, int64 [<= 128, L]."""
    n, (layers, pairs) = 2048, able.shape
    chosen = rng.integers(len(parents), size=n)
    children = parents[chosen].copy()
    rows = np.arange(n)
    for change in range(2):
        layer, pair = rng.integers(layers, size=n), rng.integers(pairs, size=n)
        use = able[layer, pair] & ((change == 0) | (rng.random(n) < 0.8))
        children[rows[use], layer[use]] = pair[use]
    kept = costs.fits(children)
    children, chosen = children[kept], chosen[kept]
    position = np.arange(layers)
    gain = values[position, children].sum(axis=1) - values[position, parents[chosen]].sum(axis=1)
    return children[np.argsort(-gain, kind="stable")[:128]]
