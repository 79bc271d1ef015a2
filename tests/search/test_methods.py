"""Spaces and searchers against brute force, with masks, coupled layers, pins and floors."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsd.quantizers.options import parse_options
from qsd.search import METHODS, Budget, Candidates, SearchSettings, Space, Task
from qsd.search.methods.length import ChangeLength, energies
from qsd.search.methods.orthogonality import alignment, importance, solve_program, total_similarity
from qsd.search.objectives import search_objectives
from qsd.search.posterior import Certain
from qsd.support.errors import QsdError

OPTIONS = tuple(parse_options(["uaq-3", "uaq-4", "kmeans_a-4", "uaq-8"]))
NAMES = ("time.linear", "blocks.0.q", "blocks.0.k", "blocks.1.q", "proj_out")
QUICK = SearchSettings(population=32, generations=15, improve_rounds=10, additive_samples=60, confidence=0.5)


def space_of(seed: int = 0, masked: bool = True, groups: tuple[tuple[int, ...], ...] = ()) -> Space:
    rng = np.random.default_rng(seed)
    weights = rng.integers(50, 200, size=5)
    sizes = (weights[:, None] * np.array([3, 4, 4, 8]) / 8).astype(np.int64) + rng.integers(0, 9, size=(5, 4))
    if masked:
        sizes[1, 0] = sizes[4, 2] = sizes[4, 0] = -1
    return Space.make(sizes, weights, OPTIONS, layer_names=NAMES, groups=groups)


def every(space: Space) -> np.ndarray:
    """All available choices, int8 [n, U]."""
    choices = [np.flatnonzero(row) for row in space.available]
    return np.array(list(product(*choices)), dtype=np.int8)


def task_of(space: Space, fraction: float, **rest: object) -> Task:
    size = space.smallest + int(fraction * (space.largest - space.smallest))
    return Task(space, Budget(size, float(space.bits_of(size))), settings=QUICK, **rest)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), fraction=st.floats(0, 1), coupled=st.booleans())
def test_knapsack_and_program_find_the_optimum(seed: int, fraction: float, coupled: bool) -> None:
    space = space_of(seed, groups=((1, 2, 3),) if coupled else ())
    score = np.random.default_rng(seed).normal(size=(5, 4))
    task = task_of(space, fraction, score=score)
    units = every(space)
    fits = space.bytes_of(units) <= task.budget.max_bytes
    best = task.values[np.arange(len(space.num_bytes)), units].sum(axis=1)[fits].max()
    for method in ("knapsack", "operation", "orthogonality"):
        front = METHODS[method](task)
        assert front.predicted[-1] == pytest.approx(best)
        assert (front.num_bytes <= task.budget.max_bytes).all()
        chosen = score[np.arange(5), front.configs[-1]].sum()
        assert chosen == pytest.approx(best)  # by layer, whatever is coupled
        if coupled:
            assert (front.configs[:, 1] == front.configs[:, 2]).all()
            assert (front.configs[:, 1] == front.configs[:, 3]).all()


@pytest.mark.parametrize("method", ["evolution", "random", "uniform", "length"])
@pytest.mark.parametrize("coupled", [False, True])
def test_searchers_keep_to_what_is_available(method: str, coupled: bool) -> None:
    space = space_of(3, groups=((0, 3),) if coupled else ())
    change = np.random.default_rng(2).normal(size=(5, 4, 3)) / np.array([3, 4, 4, 8])[:, None]
    task = task_of(space, 0.6, predictor=ChangeLength(change))
    front = METHODS[method](task)  # type: ignore[index]
    sizes = np.where(space.available, space.num_bytes, -1)
    taken = sizes[
        np.arange(len(sizes)), front.configs[:, np.unique(space.unit_of_layer, return_index=True)[1]]
    ]
    assert (taken >= 0).all()
    assert (taken.sum(axis=1) == front.num_bytes).all()
    assert (front.num_bytes <= task.budget.max_bytes).all()
    if method in ("evolution", "length"):
        units = every(space)
        truth = task.predictor.posterior(space.expand(units)).mean  # type: ignore[union-attr]
        assert front.predicted[-1] == pytest.approx(
            truth[space.bytes_of(units) <= task.budget.max_bytes].max()
        )


def test_length_is_that_of_the_sum() -> None:
    change = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    configs = np.random.default_rng(1).integers(0, 4, size=(7, 5)).astype(np.int8)
    total = change[np.arange(5), configs].sum(axis=1).astype(float)
    found = ChangeLength(change).posterior(configs)
    assert found.mean == pytest.approx(-np.log((total**2).sum(axis=1)), rel=1e-5)
    assert energies(change) == pytest.approx(-(change.astype(float) ** 2).sum(axis=2))


def test_greedy_takes_the_smallest_option_above_a_threshold() -> None:
    space = space_of(2)
    psnr = np.random.default_rng(0).normal(20, 5, size=(5, 4))
    front = METHODS["greedy"](task_of(space, 1.0, score=psnr))
    for config in front.configs:
        taken = psnr[np.arange(5), config].min()  # the threshold, or what a layer without any reaches at best
        for layer, option in enumerate(config):
            smaller = space.available[layer] & (space.num_bytes[layer] < space.num_bytes[layer, option])
            assert (psnr[layer, smaller] < taken).all() or psnr[layer, option] == psnr[
                layer, space.available[layer]
            ].max()
    thresholds = np.unique(psnr[space.available])
    sizes = set()
    for threshold in thresholds:
        size = 0
        for layer in range(5):
            able = np.flatnonzero(space.available[layer])
            reaching = [o for o in able if psnr[layer, o] >= threshold]
            pick = min(reaching, key=lambda o: space.num_bytes[layer, o]) if reaching else None
            if pick is None:
                best = psnr[layer, able].max()
                pick = next(o for o in able if psnr[layer, o] == best)
            size += int(space.num_bytes[layer, pick])
        sizes.add(size)
    assert set(front.num_bytes.tolist()) <= sizes


def test_block_chooses_whole_modules() -> None:
    rng = np.random.default_rng(5)
    space = space_of(5)
    modules = []
    for layers in ((0,), (1, 2), (3, 4)):
        combos = np.array(list(product(range(4), repeat=len(layers))), dtype=np.int8)
        modules.append(Candidates(np.array(layers), combos, rng.normal(size=len(combos))))
    task = task_of(space, 0.5, score=np.zeros((5, 4)), modules=tuple(modules))
    units = every(space)
    units = units[space.bytes_of(units) <= task.budget.max_bytes]

    def total(config: np.ndarray) -> float:
        return sum(float(m.score[(m.options == config[m.layers]).all(axis=1)][0]) for m in modules)

    best = max(total(config) for config in units)
    scored = Certain(lambda configs: np.array([total(config) for config in configs]))
    front = METHODS["block"](task_of(space, 0.5, predictor=scored, modules=tuple(modules)))
    assert front.predicted[-1] == pytest.approx(best)


def test_pins_and_floors() -> None:
    space = space_of().restricted({"proj_out": "uaq-8"}, {"blocks.*.q": "uaq-4"})
    assert [space.available[layer].tolist() for layer in (4, 1, 3)] == [
        [False, False, False, True],
        [False, True, True, True],
        [False, True, True, True],
    ]
    assert space.available[2].all()
    for pins, floors, message in (
        (
            {"proj_out": "uaq-3"},
            {},
            "layer proj_out: keep proj_out=uaq-3 leave it no option; it can take uaq-4, uaq-8",
        ),
        ({"nothing*": "uaq-3"}, {}, "keep nothing.=uaq-3: matches no layer"),
        ({}, {"proj_out": "gguf-2"}, "no such option; the bank has uaq-3"),
        (
            {"blocks.0.q": "uaq-4"},
            {"blocks.0.*": "uaq-8"},
            "keep blocks.0.q=uaq-4 and at-least blocks.0..=uaq-8 leave it no option",
        ),
    ):
        with pytest.raises(QsdError, match=message):
            space_of().restricted(pins, floors)


def test_a_unit_without_options_is_named() -> None:
    with pytest.raises(QsdError, match=r"layer blocks\.0\.q .and 1 coupled layers.: no option fits"):
        sizes = np.array([[3, -1], [-1, 4]])
        Space.make(sizes, np.array([8, 8]), OPTIONS[:2], layer_names=["blocks.0.q", "b"], groups=[(0, 1)])


def test_budget_below_the_smallest_size_names_both_ends() -> None:
    space = space_of()
    with pytest.raises(
        QsdError, match=f"smallest possible size, {space.smallest} .*largest is {space.largest}"
    ):
        Budget.make(space.num_bytes, space.num_weights, max_bytes=space.smallest - 1)


def brute_hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Song et al. (2012), equation 4, term by term."""
    n = len(one)
    k, m = one - np.diag(np.diag(one)), other - np.diag(np.diag(other))
    ones = np.ones(n)
    first = np.trace(k @ m)
    second = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    third = 2 * (ones @ k @ m @ ones) / (n - 2)
    return float((first + second - third) / (n * (n - 3)))


def test_alignment_is_centred_kernel_alignment() -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(9, d)) for d in (4, 30, 200)]
    features.append(features[0] @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * 3)  # rotated and scaled
    grams = np.stack([x @ x.T for x in features])
    centre = np.eye(9) - 1 / 9
    found = alignment(grams, debiased=False)
    for i, j in product(range(4), repeat=2):
        x, y = centre @ features[i], centre @ features[j]
        expected = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
        assert found[i, j] == pytest.approx(expected)
    assert found[0, 3] == pytest.approx(1)
    debiased = alignment(grams, debiased=True)
    for i, j in product(range(4), repeat=2):
        expected = brute_hsic(grams[i], grams[j]) / np.sqrt(
            brute_hsic(grams[i], grams[i]) * brute_hsic(grams[j], grams[j])
        )
        assert debiased[i, j] == pytest.approx(expected)
    assert abs(debiased[1, 2]) < abs(found[1, 2])  # unrelated features of many dimensions
    assert total_similarity(grams, debiased=False) == pytest.approx(found.sum(axis=1) - 1)


def test_importance_in_all_readings() -> None:
    gamma = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 2.0]])
    mean = np.exp(-0.5 * gamma.mean(axis=0))
    assert importance(gamma, 0.5) == pytest.approx(mean)
    assert importance(gamma, 0.5, aggregation="importance") == pytest.approx(
        np.exp(-0.5 * gamma).mean(axis=0)
    )
    weighted = np.exp(-0.5 * (gamma[0] / 3 + 2 * gamma[1] / 3))
    assert importance(gamma, 0.5, decay=2.0) == pytest.approx(weighted)
    suffix = [mean.mean(), mean[1:].mean(), mean[2]]
    assert importance(gamma, 0.5, suffix_mean=True) == pytest.approx(suffix)


def test_a_program_without_solution_says_so() -> None:
    with pytest.raises(QsdError, match="at most 3; raise the budget"):
        solve_program(np.ones((2, 2)), np.array([[2, 3], [2, 3]]), 3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), tight=st.floats(0.3, 1.0))
def test_a_program_within_several_sizes_finds_the_optimum(seed: int, tight: float) -> None:
    rng = np.random.default_rng(seed)
    values, sizes = rng.normal(size=(4, 5)), rng.integers(1, 20, size=(3, 4, 5)).astype(float)
    values[0, 1] = -np.inf
    choices = np.array(list(product(range(5), repeat=4)))
    totals = sizes[:, np.arange(4), choices].sum(axis=2)
    limits = np.array([np.quantile(totals[0], tight), np.inf, np.quantile(totals[2], tight)])
    fits = (totals <= limits[:, None]).all(axis=0)
    best = values[np.arange(4), choices].sum(axis=1)[fits].max()
    if np.isfinite(best):
        found = solve_program(values, sizes, limits)
        assert (sizes[:, np.arange(4), found].sum(axis=1) <= limits + 1e-9).all()
        assert values[np.arange(4), found].sum() == pytest.approx(best)


def test_a_sweep_lets_the_predictor_choose() -> None:
    space = space_of()
    rng = np.random.default_rng(1)
    scores = tuple(rng.normal(size=(5, 4)) for _ in range(3))
    truth = Certain(lambda configs: scores[2][np.arange(5), configs].sum(axis=1))
    swept = METHODS["orthogonality"](
        task_of(space, 0.6, score=scores[0], further_scores=scores[1:], predictor=truth)
    )
    alone = METHODS["orthogonality"](task_of(space, 0.6, score=scores[2], predictor=truth))
    first = METHODS["orthogonality"](task_of(space, 0.6, score=scores[0], predictor=truth))
    assert swept.predicted[-1] == pytest.approx(alone.predicted[-1])
    assert swept.predicted[-1] > first.predicted[-1]


def test_several_objectives_find_the_true_front() -> None:
    space = space_of(4)
    rng = np.random.default_rng(2)
    tables = {"fid": rng.normal(size=(5, 4)), "psnr": rng.normal(size=(5, 4))}

    @dataclass(frozen=True)
    class Summed(Certain):
        def values(self, configs: np.ndarray) -> np.ndarray:
            return -self.posterior(configs).mean  # as a label of which less is better

    objectives = {
        name: Summed(lambda configs, table=table: table[np.arange(5), configs].sum(axis=1))
        for name, table in tables.items()
    }
    settings_ = SearchSettings(
        population=128, generations=40, additive_samples=60, max_members=400, confidence=0.5
    )
    task = task_of(space, 0.7, predictor=objectives["fid"])
    front = search_objectives(replace(task, settings=settings_), objectives)
    units = every(space)
    points = np.column_stack(
        [*(one.posterior(units).mean for one in objectives.values()), -space.bytes_of(units)]
    )
    points = points[-points[:, 2] <= task.budget.max_bytes]
    beaten = [((points >= row).all(axis=1) & (points > row).any(axis=1)).any() for row in points]
    truth = {tuple(np.round(row, 9)) for row in points[~np.array(beaten)]}
    found = {
        (round(-fid, 9), round(-psnr, 9), float(-size))
        for fid, psnr, size in zip(
            front.objectives["fid"], front.objectives["psnr"], front.num_bytes, strict=True
        )
    }
    assert len(found & truth) >= 0.9 * len(truth) and len(found - truth) <= 0.1 * len(found)
    assert (np.diff(front.num_bytes) >= 0).all()
    assert front.meta.settings["objectives"] == ["fid", "psnr"]
    few = search_objectives(replace(task, settings=replace(settings_, max_members=10)), objectives)
    assert len(few) == 10
    with pytest.raises(QsdError, match="name at least two"):
        search_objectives(task, {"fid": objectives["fid"]})
