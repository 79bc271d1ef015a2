"""Schedules: budgets of the mean over steps, brute force, pins by pattern."""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qsd.denoisers import WeightLayer
from qsd.quantizers import Option
from qsd.quantizers.activations import parse_activations
from qsd.ranker.joint_search import JointConfig, allowed_pairs
from qsd.ranker.schedules import Budgets, by_damage, by_importance, damages
from qsd.ranker.tasks import OrthogonalitySettings
from qsd.search import Posterior
from qsd.support.errors import QsdError

RANGES = ((0, 1), (1, 4))
MACS = np.array([100, 400, 0])
WORTH = np.array([[9.0, 8.0, 1.0], [5.0, 4.0, 3.5], [2.0, 2.0, 2.0]])


def _bank() -> Any:
    """What schedules read of a bank of three layers, the last of which cannot round its input."""
    num_bytes = np.array([[30, 40], [60, 80], [15, 20]])
    return SimpleNamespace(
        options=(Option.parse("uaq-3"), Option.parse("uaq-4")),
        activation_options=parse_activations(["16", "8", "4"]),
        denoiser={"class": "X"},
        layers=[WeightLayer(name, name, None, "other", "linear", (8, 8)) for name in ("a.q", "a.k", "out")],
        layer_names=["a.q", "a.k", "out"],
        macs=MACS,
        num_bytes=num_bytes,
        num_weights=np.array([80, 160, 40]),
        available=num_bytes >= 0,
    )


class _Judge:
    """Knows what each option of a layer is worth."""

    def over(self, options: Any) -> "_Judge":
        return self

    def posterior(self, configs: np.ndarray, activations: np.ndarray) -> Posterior:
        mean = WORTH[np.arange(3), activations].sum(axis=1) + configs.sum(axis=1)
        return Posterior(mean, np.zeros_like(mean))


FOUND = JointConfig(np.array([0, 1, 1], np.int8), np.array([1, 1, 0], np.int8), 0.0, {}, 0)


def test_damages_are_differences_of_predictions() -> None:
    assert np.allclose(damages(_Judge(), FOUND, 3), WORTH[:, :1] - WORTH)


def test_the_best_schedule_of_all_is_found() -> None:
    shares = np.array([[0.5, 0.5], [0.8, 0.2], [0.1, 0.9]])
    damage = damages(_Judge(), FOUND, 3)
    bits, length = np.array([16, 8, 4]), np.array([0.25, 0.75])
    weights = np.array([3, 4, 4])
    for budgets in (Budgets(max_act_bits=7.0), Budgets(max_act_bits=9.0, max_bops=14000.0)):
        best = -np.inf
        for genes in itertools.product(range(3), repeat=4):
            chosen = np.array(genes).reshape(2, 2)
            mean = float(length @ (bits[chosen] * MACS[:2]).sum(axis=1)) / MACS.sum()
            operations = float(length @ (bits[chosen] * MACS[:2] * weights[:2]).sum(axis=1))
            if mean > budgets.max_act_bits + 1e-9 or operations > (budgets.max_bops or np.inf) + 1e-6:
                continue
            loss = sum(
                damage[layer, chosen[g, layer]] * shares[chosen[g, layer], g]
                for g in (0, 1)
                for layer in (0, 1)
            )
            best = max(best, -loss)
        found = by_damage(_Judge(), _bank(), FOUND, RANGES, shares, budgets)
        vectors = found.schedule.activations
        lost = sum(
            damage[layer, vectors[g, layer]] * shares[vectors[g, layer], g]
            for g in (0, 1)
            for layer in (0, 1)
        )
        assert -lost == pytest.approx(best)
        assert (vectors[:, 2] == 0).all() and found.schedule.ranges == RANGES
        assert found.costs["activation bits"] <= budgets.max_act_bits + 1e-9
        assert found.costs["bit-operations"] <= (budgets.max_bops or np.inf) + 1e-6


def test_importance_gives_more_bits_where_layers_resemble_few_others() -> None:
    gamma = np.array([[0.1, 0.1, 2.0], [3.0, 3.0, 2.0]])
    found = by_importance(
        _bank(), FOUND.config, ((0, 2), (2, 4)), gamma, Budgets(max_act_bits=8.0), OrthogonalitySettings()
    )
    first, second = (np.array([16, 8, 4])[row] @ MACS for row in found.schedule.activations)
    assert first > second
    assert found.costs["activation bits"] <= 8.0


def test_rules_pin_weights_activations_or_both() -> None:
    allowed = allowed_pairs(_bank(), {"a.*": "@8", "out": "uaq-4@16"}, {"a.q": "uaq-4"}).reshape(3, 2, 3)
    assert allowed[0].tolist() == [[False, False, False], [False, True, False]]
    assert allowed[1].tolist() == [[False, True, False], [False, True, False]]
    assert allowed[2].tolist() == [[False, False, False], [True, False, False]]
    for keep, message in (
        ({"a.q": "@6"}, "keep a.q=6: no such option; the bank has 16, 8, 4"),
        ({"out": "@8"}, "activations of layer out: keep out=8 leave it no option; it can take 16"),
        ({"b": "@8"}, "matches no layer"),
    ):
        with pytest.raises(QsdError, match=message):
            allowed_pairs(_bank(), keep, {})


def test_a_schedule_without_a_budget_is_refused() -> None:
    with pytest.raises(QsdError, match="needs a budget"):
        by_damage(_Judge(), _bank(), FOUND, RANGES, np.full((3, 2), 0.5), Budgets())
    with pytest.raises(QsdError, match="no choice has a size"):
        by_damage(
            _Judge(), _bank(), dataclasses.replace(FOUND), RANGES, np.full((3, 2), 0.5), Budgets(max_bops=1.0)
        )
