"""NSGA-II and the whole search, against brute force and random search."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.options import SIX

from qsd.bank.sizes import average_bits, config_bytes
from qsd.configs.sampling import sample_config, sample_configs
from qsd.quantizers.options import Option, parse_options
from qsd.search import (
    METHODS,
    Budget,
    Evaluator,
    Front,
    MethodName,
    Posterior,
    Predictor,
    SearchSettings,
    Space,
    Task,
    crowding_distance,
    evolve,
    greedy_fill,
    non_dominated_rank,
)
from qsd.search.improve import improve
from qsd.search.nsga2 import keys_of
from qsd.search.posterior import as_predictor
from qsd.support.errors import QsdError

SMALL = SearchSettings(population=32, generations=12, improve_rounds=10, additive_samples=100)


def search(
    predictor: Predictor,
    num_bytes: np.ndarray,
    num_weights: np.ndarray,
    options: Sequence[Option],
    *,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    method: MethodName = "evolution",
    **rest: Any,
) -> Front:
    """A search in a space without names."""
    space = Space.make(num_bytes, num_weights, options)
    budget = Budget.make(space.num_bytes, space.num_weights, max_bits=max_bits, max_bytes=max_bytes)
    return METHODS[method](Task(space, budget, as_predictor(predictor), **rest))


class Damage:
    """A made-up quality: layers differ in sensitivity, and their errors add up along interactions."""

    def __init__(self, num_layers: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.num_weights = rng.choice([96 * 96, 96 * 384], size=num_layers)
        bits = np.array([option.traits.bits for option in SIX])
        overhead = np.array([0.2, 0.2, 1.0, 2.0, 0.01, 0.02])
        self.num_bytes = (self.num_weights[:, None] * (bits + overhead) / 8).astype(np.int64)
        step = np.where(bits == 3, 1.0, 0.5) * np.repeat([1.25, 0.85, 1.1], 2)
        self.error = step * np.exp(0.25 * rng.normal(size=(num_layers, 6)))
        self.error *= np.sqrt(rng.dirichlet(np.ones(num_layers)))[:, None]
        self.interaction = rng.normal(size=(num_layers, num_layers)) * (
            rng.random((num_layers, num_layers)) < 0.1
        )

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        error = self.error[np.arange(len(self.error)), configs]
        pairs = np.einsum("ni,ij,nj->n", error, 0.3 * self.interaction, error)
        return -60 * np.abs((error**2).sum(axis=1) + pairs) ** 1.3


def everything(num_layers: int, num_options: int) -> np.ndarray:
    return np.array(list(product(range(num_options), repeat=num_layers)), dtype=np.int8)


def brute_rank(score: np.ndarray, cost: np.ndarray) -> np.ndarray:
    rank = np.full(len(score), -1)
    front = 0
    while (rank < 0).any():
        left = np.flatnonzero(rank < 0)
        s, c = score[left], cost[left]
        no_worse = (s[:, None] >= s) & (c[:, None] <= c)
        better = (s[:, None] > s) | (c[:, None] < c)
        rank[left[~(no_worse & better).any(axis=0)]] = front
        front += 1
    return rank


@settings(deadline=None)  # the first example compiles
@given(
    points=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
)
def test_ranks_are_those_of_the_definition(points: list[tuple[int, int]]) -> None:
    score, cost = np.array(points, dtype=float).T
    assert (non_dominated_rank(score, cost) == brute_rank(score, cost)).all()


@settings(deadline=None)
@given(points=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40))
def test_ranks_of_three_objectives_are_those_of_the_definition(points: list[tuple[int, ...]]) -> None:
    values = np.array(points, dtype=float)
    rank = np.full(len(values), -1)
    front = 0
    while (rank < 0).any():
        left = np.flatnonzero(rank < 0)
        ours, theirs = values[left][None], values[left][:, None]
        beats = (theirs >= ours).all(axis=2) & (theirs > ours).any(axis=2)
        rank[left[~beats.any(axis=0)]] = front
        front += 1
    assert (non_dominated_rank(values[:, :2], -values[:, 2]) == rank).all()


def test_equal_genomes_alone_have_equal_keys() -> None:
    rows = np.random.default_rng(0).integers(0, 3, size=(3000, 9)).astype(np.int8)
    keys = keys_of(rows)
    assert len(set(keys)) == len(np.unique(rows, axis=0))
    assert keys_of(rows[::-1].copy()) == keys[::-1]


def test_crowding_distance_by_hand() -> None:
    score, cost = np.array([0.0, 1.0, 3.0, 4.0, 0.0]), np.array([0, 1, 2, 4, 9])
    rank = np.array([0, 0, 0, 0, 1])
    distance = crowding_distance(score, cost, rank)
    assert distance[[0, 3, 4]].tolist() == [np.inf] * 3
    assert distance[1:3] == pytest.approx([3 / 4 + 2 / 4, 3 / 4 + 3 / 4])


def test_evolution_finds_the_true_front_of_a_small_problem() -> None:
    damage = Damage(5, seed=1)
    configs = everything(5, 6)
    score, size = damage(configs), config_bytes(configs, damage.num_bytes)
    truth = non_dominated_rank(score, size) == 0
    true_front = {(int(b), round(float(q), 9)) for b, q in zip(size[truth], score[truth], strict=True)}
    rng = np.random.default_rng(0)
    found = evolve(
        damage, configs[rng.integers(len(configs), size=64)], damage.num_bytes, np.copy, rng, 128, 60
    )
    sizes, qualities = config_bytes(found, damage.num_bytes), damage(found)
    found_front = {(int(b), round(float(q), 9)) for b, q in zip(sizes, qualities, strict=True)}
    assert len(true_front & found_front) >= 0.95 * len(true_front)


@pytest.mark.parametrize("seed", range(4))
def test_climbs_end_at_the_optimum_of_a_small_problem(seed: int) -> None:
    damage = Damage(6, seed=seed)
    configs = everything(6, 6)
    size = config_bytes(configs, damage.num_bytes)
    budget = int(np.quantile(size, 0.4))
    rng = np.random.default_rng(seed)
    starts = configs[rng.choice(np.flatnonzero(size <= budget), 3)]
    found = improve(damage, starts, damage.num_bytes, budget, rng)
    assert (config_bytes(found, damage.num_bytes) <= budget).all()
    assert (damage(found) >= damage(starts)).all()
    assert damage(found).max() == pytest.approx(damage(configs[size <= budget]).max(), rel=1e-9)


def test_climbs_leave_out_what_a_unit_cannot_take() -> None:
    damage = Damage(30, seed=5)
    num_bytes = damage.num_bytes.copy()
    num_bytes[::3, 1::2] = -1
    start = np.where(num_bytes[:, 0] >= 0, 0, 1).astype(np.int8)[None]
    budget = int(config_bytes(start, num_bytes)[0] * 1.2)
    (found,) = improve(damage, start, num_bytes, budget, np.random.default_rng(0))
    assert (num_bytes[np.arange(30), found] >= 0).all()
    assert config_bytes(found[None], num_bytes)[0] <= budget
    assert damage(found[None])[0] > damage(start)[0]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_search_finds_the_optimum_of_a_small_problem(fraction: float) -> None:
    damage = Damage(5, seed=2)
    configs = everything(5, 6)
    size = config_bytes(configs, damage.num_bytes)
    max_bytes = int(size.min() + fraction * (size.max() - size.min()))
    best = damage(configs)[size <= max_bytes].max()
    front = search(damage, damage.num_bytes, damage.num_weights, SIX, max_bytes=max_bytes, settings=SMALL)
    assert front.predicted[-1] == pytest.approx(best)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), num_layers=st.integers(1, 8), fraction=st.floats(0, 1))
def test_nothing_exceeds_the_budget_and_the_front_is_a_front(
    seed: int, num_layers: int, fraction: float
) -> None:
    damage = Damage(num_layers, seed)
    smallest, largest = (int(f(damage.num_bytes, axis=1).sum()) for f in (np.min, np.max))
    bits = float(average_bits(smallest + int(fraction * (largest - smallest)), damage.num_weights))
    tiny = SearchSettings(population=16, generations=3, improve_rounds=2, additive_samples=30, max_members=10)
    front = search(damage, damage.num_bytes, damage.num_weights, SIX, max_bits=bits, settings=tiny, seed=seed)
    assert (front.avg_bits <= bits).all()
    assert (config_bytes(front.configs, damage.num_bytes) == front.num_bytes).all()
    assert (average_bits(front.num_bytes, damage.num_weights) == front.avg_bits).all()
    assert (np.diff(front.num_bytes) > 0).all()
    assert (np.diff(front.score) > 0).all()
    assert len(front) <= 10
    assert (front.best() == front.configs[-1]).all()


def test_the_search_beats_random_search_and_greedy() -> None:
    damage = Damage(40, seed=3)
    sizes = damage.num_bytes, damage.num_weights
    for max_bits in (3.4, 4.0):
        budget = Budget.make(*sizes, max_bits=max_bits)
        front = search(damage, *sizes, SIX, max_bits=max_bits)
        evaluations = front.meta.settings["evaluations"]
        assert evaluations <= 20_000
        random = SearchSettings(additive_samples=evaluations, confidence=0.5)
        chance = search(damage, *sizes, SIX, max_bits=max_bits, method="random", settings=random)
        greedy = greedy_fill(-damage.error, damage.num_bytes, budget.max_bytes)
        assert config_bytes(greedy, damage.num_bytes) <= budget.max_bytes
        assert (chance.num_bytes <= budget.max_bytes).all()
        assert front.predicted[-1] > chance.predicted[-1]
        assert front.predicted[-1] > damage(greedy[None])[0]


def test_equal_seeds_give_equal_fronts() -> None:
    damage = Damage(12)
    fronts = [
        search(
            damage,
            damage.num_bytes,
            damage.num_weights,
            SIX,
            max_bits=3.7,
            settings=SMALL,
            seed=seed,
        )
        for seed in (5, 5, 6)
    ]
    assert (fronts[0].configs == fronts[1].configs).all()
    assert (
        fronts[0].configs.shape != fronts[2].configs.shape or (fronts[0].configs != fronts[2].configs).any()
    )


def test_progress_counts_up_to_the_end_of_evolution() -> None:
    damage, calls = Damage(6), []
    search(
        *(damage, damage.num_bytes, damage.num_weights, SIX),
        settings=SMALL,
        progress=lambda done, total, message: calls.append((done, total, message)),
    )
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert done[-1] == calls[-1][1] == 42
    assert done[:12] == list(range(1, 13))


class Flattering:
    """A predictor whose mean errs upwards exactly where it is unsure."""

    def __init__(self, damage: Damage) -> None:
        self.damage = damage

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        std = 4.0 * (configs == 0).sum(axis=1)
        return Posterior(self.damage(configs) + std, std**2)


def test_confidence_takes_back_what_the_mean_flatters() -> None:
    damage = Damage(10)
    truths = []
    for confidence in (0.5, 0.8413):
        settings_ = SearchSettings(
            population=32, generations=12, improve_rounds=10, additive_samples=200, confidence=confidence
        )
        front = search(
            *(Flattering(damage), damage.num_bytes, damage.num_weights, SIX),
            max_bits=3.6,
            settings=settings_,
        )
        bound = Posterior(front.predicted, front.std**2 + 1e-12).quantile(1 - confidence)
        assert np.allclose(front.score, bound, atol=1e-4)
        truths.append(damage(front.best()[None])[0])
    assert truths[1] > truths[0]


def test_an_evaluator_predicts_each_config_once() -> None:
    seen: list[int] = []

    def predictor(configs: np.ndarray) -> np.ndarray:
        seen.append(len(configs))
        return configs.sum(axis=1).astype(float)

    evaluator = Evaluator(predictor, batch_size=2)
    assert evaluator(np.array([[1, 2], [0, 0], [1, 2], [3, 3]], dtype=np.int8)).tolist() == [3, 0, 3, 6]
    assert evaluator(np.array([[3, 3], [5, 5]], dtype=np.int8)).tolist() == [6, 10]
    assert seen == [2, 1, 1]
    assert evaluator.count == 4


def test_a_predictor_that_returns_nan_is_an_error() -> None:
    with pytest.raises(QsdError, match="NaN"):
        Evaluator(lambda configs: np.full(len(configs), np.nan))(np.zeros((2, 3), dtype=np.int8))


def test_a_sampled_config_depends_on_seed_and_index_only() -> None:
    all_at_once = sample_configs(SIX, 9, 20, seed=4)
    assert all_at_once.dtype == np.int8
    assert (sample_configs(SIX, 9, 5, seed=4, start=15) == all_at_once[15:]).all()
    assert (sample_configs(SIX, 9, 20, seed=5) != all_at_once).any()


def test_the_law_of_random_configs() -> None:
    configs = sample_configs(SIX, 200, 1000, seed=0)
    three_bits = (configs % 2 == 0).mean(axis=1)  # even options have 3 bits
    assert np.quantile(three_bits, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.06)
    assert np.bincount(configs.ravel(), minlength=6) / configs.size == pytest.approx([1 / 6] * 6, abs=0.02)
    wide = parse_options(["uaq-2", "uaq-4", "kmeans_a-4", "uaq-8"])
    bits = np.array([2, 4, 4, 8])
    means = [bits[sample_config(wide, 500, np.random.default_rng(seed))].mean() for seed in range(2000)]
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx([2.75, 3.75, 4.75], abs=0.15)
    high = parse_options(["uaq-6", "uaq-8"])
    of_six = [np.mean(sample_config(high, 500, np.random.default_rng(seed)) == 0) for seed in range(400)]
    assert np.quantile(of_six, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.08)
    assert not sample_config(high[:1], 9, np.random.default_rng(0)).any()


def test_best_within_a_limit() -> None:
    damage = Damage(8)
    front = search(damage, damage.num_bytes, damage.num_weights, SIX, settings=SMALL)
    assert isinstance(front, Front)
    middle = len(front) // 2
    assert front.best_index(max_bytes=int(front.num_bytes[middle])) == middle
    assert front.best_index(max_bits=float(front.avg_bits[middle])) == middle
    with pytest.raises(QsdError, match="above the limit"):
        front.best(max_bits=1.0)
