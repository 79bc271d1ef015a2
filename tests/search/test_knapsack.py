"""Budgets, the additive approximation, the knapsack and repairs, against brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from qsd.bank.sizes import average_bits, config_bytes
from qsd.search import Budget, fit_additive, greedy_fill, lagrangian_front, solve_knapsack
from qsd.search.repair import Downgrades, repair
from qsd.support.errors import QsdError


def problem(seed: int, num_layers: int = 4, num_options: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_layers, num_options))
    return values, rng.integers(1, 50, size=(num_layers, num_options))


def everything(num_layers: int, num_options: int) -> np.ndarray:
    return np.array(list(product(range(num_options), repeat=num_layers)), dtype=np.int8)


def additive_quality(configs: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values[np.arange(len(values)), configs].sum(axis=-1)


def random_budget(num_bytes: np.ndarray, fraction: float) -> int:
    smallest, largest = int(num_bytes.min(axis=1).sum()), int(num_bytes.max(axis=1).sum())
    return smallest + int(fraction * (largest - smallest))


def test_sizes_by_hand() -> None:
    num_bytes = np.array([[3, 4], [30, 40]])
    configs = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int8)
    assert config_bytes(configs, num_bytes).tolist() == [33, 34, 44]
    assert config_bytes(configs[2], num_bytes) == 44
    assert average_bits(np.array([33, 44]), np.array([8, 80])).tolist() == [3.0, 4.0]


@given(total=st.integers(1, 10**9), size=st.integers(1, 10**9))
def test_a_budget_in_bits_admits_exactly_the_sizes_that_do_not_exceed_it(total: int, size: int) -> None:
    num_bytes, num_weights = np.array([[1]]), np.array([total])
    bits = float(average_bits(size, num_weights))
    budget = Budget.make(num_bytes, num_weights, max_bits=bits)
    assert average_bits(budget.max_bytes, num_weights) <= bits
    assert average_bits(budget.max_bytes + 1, num_weights) > bits
    assert budget.max_bytes == size


def test_budget_mistakes() -> None:
    num_bytes, num_weights = np.array([[30, 40], [33, 50]]), np.array([80, 80])
    with pytest.raises(
        QsdError, match=r"2.0 bits is below the smallest possible size, 63 bytes \(3.1500"
    ) as error:
        Budget.make(num_bytes, num_weights, max_bits=2.0)
    assert "\n" not in str(error.value)
    assert Budget.make(num_bytes, num_weights, max_bits=3.15).max_bytes == 63
    with pytest.raises(QsdError, match="62 bytes is below"):
        Budget.make(num_bytes, num_weights, max_bytes=62)
    with pytest.raises(QsdError, match="not both"):
        Budget.make(num_bytes, num_weights, max_bytes=70, max_bits=4)
    with pytest.raises(QsdError, match="max_bits is nan"):
        Budget.make(num_bytes, num_weights, max_bits=float("nan"))
    assert Budget.make(num_bytes, num_weights).max_bytes == 90


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0, 1))
def test_the_knapsack_is_optimal(seed: int, fraction: float) -> None:
    values, num_bytes = problem(seed)
    max_bytes = random_budget(num_bytes, fraction)
    config = solve_knapsack(values, num_bytes, max_bytes)
    assert config.dtype == np.int8
    assert config_bytes(config, num_bytes) <= max_bytes
    configs = everything(*values.shape)
    fits = config_bytes(configs, num_bytes) <= max_bytes
    assert additive_quality(config, values) == pytest.approx(additive_quality(configs[fits], values).max())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0, 1))
def test_the_knapsack_is_optimal_among_ties(seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    values, num_bytes = rng.integers(0, 3, size=(5, 3)).astype(float), rng.integers(1, 4, size=(5, 3))
    max_bytes = random_budget(num_bytes, fraction)
    config = solve_knapsack(values, num_bytes, max_bytes)
    configs = everything(5, 3)
    fits = config_bytes(configs, num_bytes) <= max_bytes
    assert config_bytes(config, num_bytes) <= max_bytes
    assert additive_quality(config, values) == additive_quality(configs[fits], values).max()


def test_a_large_knapsack_agrees_with_integer_programming() -> None:
    values, num_bytes = problem(1, num_layers=40, num_options=5)
    max_bytes = random_budget(num_bytes, 0.3)
    answer = milp(
        -values.ravel(),
        integrality=np.ones(values.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(np.kron(np.eye(40), np.ones(5)), 1, 1),
            LinearConstraint(num_bytes.reshape(1, -1), -np.inf, max_bytes + 0.5),
        ],
        options={"mip_rel_gap": 1e-9},
    )
    config = solve_knapsack(values, num_bytes, max_bytes)
    assert config_bytes(config, num_bytes) <= max_bytes
    assert additive_quality(config, values) == pytest.approx(-answer.fun)


def test_a_knapsack_without_room_is_an_error() -> None:
    values, num_bytes = problem(0)
    with pytest.raises(QsdError, match="below the smallest possible size"):
        solve_knapsack(values, num_bytes, int(num_bytes.min(axis=1).sum()) - 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_lagrangian_front_is_the_convex_hull(seed: int) -> None:
    values, num_bytes = problem(seed)
    front = lagrangian_front(values, num_bytes)
    quality, size = additive_quality(front, values), config_bytes(front, num_bytes)
    assert (np.diff(size) > 0).all()
    assert (np.diff(quality) > 0).all()
    configs = everything(*values.shape)
    for price in np.random.default_rng(seed).exponential(0.05, size=20):
        best = (additive_quality(configs, values) - price * config_bytes(configs, num_bytes)).max()
        assert (quality - price * size).max() == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0, 1))
def test_greedy_fits_and_is_no_worse_than_the_hull_within_the_budget(seed: int, fraction: float) -> None:
    values, num_bytes = problem(seed)
    max_bytes = random_budget(num_bytes, fraction)
    config = greedy_fill(values, num_bytes, max_bytes)
    front = lagrangian_front(values, num_bytes)
    within = front[config_bytes(front, num_bytes) <= max_bytes]
    assert config_bytes(config, num_bytes) <= max_bytes
    assert additive_quality(config, values) >= additive_quality(within, values).max() - 1e-12


@pytest.mark.parametrize("n", [23, 400])  # fewer and more configs than one-hot columns
def test_ridge_recovers_an_additive_quality(n: int) -> None:
    values, _ = problem(3, num_layers=6, num_options=4)
    configs = np.random.default_rng(0).integers(0, 4, size=(n, 6)).astype(np.int8)
    quality = 7.0 + additive_quality(configs, values)
    fitted = fit_additive(configs, quality, 4)
    assert np.corrcoef(additive_quality(configs, fitted), quality)[0, 1] > 0.999
    if n == 400:
        expected = values - values.mean(axis=1, keepdims=True)
        assert np.allclose(fitted - fitted.mean(axis=1, keepdims=True), expected, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0, 1))
def test_repair_never_leaves_a_config_over_budget(seed: int, fraction: float) -> None:
    values, num_bytes = problem(seed, num_layers=7, num_options=5)
    max_bytes = random_budget(num_bytes, fraction)
    rng = np.random.default_rng(seed)
    configs = rng.integers(0, 5, size=(20, 7)).astype(np.int8)
    repaired = repair(configs, num_bytes, max_bytes, Downgrades.make(values, num_bytes), rng)
    assert (config_bytes(repaired, num_bytes) <= max_bytes).all()
    fitted = config_bytes(configs, num_bytes) <= max_bytes
    assert (repaired[fitted] == configs[fitted]).all()
    smaller = num_bytes[np.arange(7), repaired] <= num_bytes[np.arange(7), configs]
    assert smaller.all()
