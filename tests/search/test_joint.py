"""Joint search against brute force, and budgets of several kinds."""

import itertools

import numpy as np
import pytest

from qsd.quantizers.activations import parse_activations
from qsd.search.costs import JointCosts, bit_operations
from qsd.search.joint import JointSettings, joint_search
from qsd.search.methods.orthogonality import solve_program
from qsd.support.errors import QsdError

ACTIVATIONS = parse_activations(["16", "8", "4"])
BITS = [3.0, 4.0]
MACS = np.array([100, 400, 50, 900])
WEIGHTS = np.array([64, 128, 32, 256])
BYTES = np.stack([WEIGHTS * 3 // 8, WEIGHTS * 4 // 8], axis=1)


def _costs(**limits: float) -> JointCosts:
    return JointCosts.make(BYTES, WEIGHTS, MACS, BITS, ACTIVATIONS, **limits)


def _all_pairs() -> np.ndarray:
    return np.array(list(itertools.product(range(6), repeat=4)))


def test_costs_are_sums_over_layers() -> None:
    costs = _costs()
    for pairs in _all_pairs()[::97]:
        bits = [BITS[pair // 3] for pair in pairs]
        rounded = [ACTIVATIONS[pair % 3].bits for pair in pairs]
        size = sum(BYTES[layer, pair // 3] for layer, pair in enumerate(pairs))
        wanted = [8 * size / WEIGHTS.sum(), np.dot(MACS, rounded) / MACS.sum(), np.dot(MACS * bits, rounded)]
        assert np.allclose(costs.of(pairs[None])[:, 0], wanted)
    assert bit_operations(MACS, np.array([4.0]), np.array([8.0])).sum() == 32 * MACS.sum()


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bits": 3.5, "max_act_bits": 7.0},
        {"max_bops": 24.0 * 1450},
        {"max_bits": 3.2, "max_bops": 40.0 * 1450},
        {},
    ],
)
def test_the_best_of_all_configs_is_found(limits: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    weight, rounded = np.sort(rng.random((4, 2)), 1), -np.sort(rng.random((4, 3)), 1)
    values = (weight[:, :, None] + rounded[:, None]).reshape(4, 6)
    clash = rng.normal(size=(6, 6)) * 0.1

    def score(pairs: np.ndarray) -> np.ndarray:
        return values[np.arange(4), pairs].sum(1) + clash[pairs[:, 0], pairs[:, 3]]

    costs = _costs(**limits)
    everything = _all_pairs()
    best = score(everything[costs.fits(everything)]).max()
    random_pairs = rng.integers(6, size=(300, 4))
    result = joint_search(score, costs, random_pairs, settings=JointSettings(300, 32, 30))
    assert result.predicted == pytest.approx(best)
    assert costs.fits(result.pairs[None]).all()
    again = joint_search(score, costs, random_pairs, settings=JointSettings(300, 32, 30))
    assert np.array_equal(again.pairs, result.pairs)


def test_options_that_a_layer_lacks_are_never_chosen() -> None:
    lacking = BYTES.copy()
    lacking[1, 0] = -1
    macs = MACS.copy()
    macs[2] = 0
    costs = JointCosts.make(lacking, WEIGHTS, macs, BITS, ACTIVATIONS, max_act_bits=6)
    rng = np.random.default_rng(1)
    random_pairs = np.where(np.isfinite(costs.tables[0])[None], rng.random((200, 4, 6)), -1).argmax(2)
    result = joint_search(lambda pairs: -pairs.sum(1).astype(float), costs, random_pairs)
    assert result.pairs[1] >= 3
    assert result.pairs[2] % 3 == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bits": 2.0}, "2 bits is below the smallest possible, 3"),
        ({"max_act_bits": 3.0}, "3 activation bits is below the smallest possible, 4"),
        ({"max_bops": 1.0}, "bit-operations is below"),
    ],
)
def test_budgets_that_nothing_fits_name_the_smallest(limits: dict[str, float], message: str) -> None:
    with pytest.raises(QsdError, match=message):
        _costs(**limits)


def test_a_bank_without_counts_says_so() -> None:
    with pytest.raises(QsdError, match="multiply-accumulates are not known"):
        JointCosts.make(BYTES, WEIGHTS, 0 * MACS, BITS, ACTIVATIONS)


def test_pairs_that_are_not_left_are_never_chosen() -> None:
    allowed = np.ones((4, 6), bool)
    allowed[2, :] = False
    allowed[2, 5] = True  # the larger weight option with the fewest activation bits
    allowed[0, 3:] = False
    costs = _costs(max_act_bits=7).restricted(allowed)
    rng = np.random.default_rng(2)
    drawn = np.where(allowed[None], rng.random((100, 4, 6)), -1).argmax(2)
    result = joint_search(lambda pairs: pairs.sum(1).astype(float), costs, drawn)
    assert result.pairs[2] == 5 and result.pairs[0] < 3
    with pytest.raises(QsdError, match="below the smallest possible"):
        _costs(max_act_bits=4.1).restricted(np.tile(np.arange(6) % 3 == 0, (4, 1)))


def test_a_program_keeps_several_budgets_and_is_exact() -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        values, sizes = rng.random((4, 3)), rng.integers(1, 20, size=(2, 4, 3)).astype(float)
        most = sizes.min(axis=2).sum(axis=1) * 1.7
        everything = np.array(list(itertools.product(range(3), repeat=4)))
        rows = np.arange(4)
        fits = (sizes[:, rows, everything].sum(axis=2) <= most[:, None]).all(axis=0)
        best = values[rows, everything].sum(axis=1)[fits].max()
        chosen = solve_program(values, sizes, most)
        assert (sizes[:, rows, chosen].sum(axis=1) <= most).all()
        assert values[rows, chosen].sum() == pytest.approx(best)
