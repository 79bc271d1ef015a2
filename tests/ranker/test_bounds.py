"""Bounds on labels against brute force over a small space."""

from itertools import product

import numpy as np
import pytest

from qsd.quantizers.options import parse_options
from qsd.ranker.bounds import Bound, full_precision_bound, smallest_within
from qsd.search import Budget, Posterior, SearchSettings, Space, Task
from qsd.support.errors import QsdError

OPTIONS = tuple(parse_options(["uaq-3", "uaq-4", "uaq-8"]))
LAYERS = 6


class Known:
    """A stand-in for a ranker: FID falls with the bits, and is known to 10 %."""

    folder = "runs/ranker"
    labels = ("fid", "psnr")
    full_precision = {"fid": 0.1}  # noqa: RUF012

    def __init__(self, seed: int = 0, deviation: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        self.damage = np.sort(rng.uniform(0.0, 0.2, size=(LAYERS, 3)), axis=1)[:, ::-1]
        self.deviation = deviation

    def posterior(
        self, configs: np.ndarray, activations: np.ndarray | None = None, label: str | None = None
    ) -> Posterior:
        log_fid = np.log(0.1 + self.damage[np.arange(LAYERS), configs].sum(axis=1))
        variance = np.full(len(configs), self.deviation**2)
        if label == "fid":
            return Posterior.of_logarithm(log_fid, variance)
        if label == "psnr":
            return Posterior(25 - 4 * log_fid, variance)
        return Posterior(-log_fid, variance)


@pytest.fixture
def task() -> Task:
    weights = np.random.default_rng(1).integers(100, 400, size=LAYERS)
    sizes = (weights[:, None] * np.array([3, 4, 8]) // 8).astype(np.int64)
    space = Space.make(sizes, weights, OPTIONS)
    budget = Budget.make(space.num_bytes, space.num_weights)
    return Task(space, budget, settings=SearchSettings(32, 15, 10, 60))


@pytest.mark.parametrize("confidence", [0.5, 0.9])
@pytest.mark.parametrize("value", [0.35, 0.5])
def test_the_smallest_config_is_found(task: Task, value: float, confidence: float) -> None:
    ranker, bound = Known(), Bound("fid", value)
    configs = np.array(list(product(range(3), repeat=LAYERS)), dtype=np.int8)
    holds = bound.holds(ranker.posterior(configs, label="fid"))
    truth = int(task.space.bytes_of(configs)[holds >= confidence].min())
    answer = smallest_within(task, ranker, [bound], confidence)  # type: ignore[arg-type]
    assert int(answer.front.num_bytes[-1]) == truth
    assert answer.probability >= confidence - 1e-6
    assert answer.even == int(task.space.bytes_of(configs)[holds >= 0.5].min())


def test_several_bounds_hold_together(task: Task) -> None:
    ranker, bounds = Known(), [Bound("fid", 0.5), Bound("psnr", 28.5, larger_is_better=True)]
    answer = smallest_within(task, ranker, bounds, 0.9)  # type: ignore[arg-type]
    last = answer.front.configs[-1:]
    for bound in bounds:
        assert bound.holds(ranker.posterior(last, label=bound.label))[0] >= 0.9 - 1e-6


def test_what_the_data_cannot_tell_is_said(task: Task) -> None:
    unsure = Known(deviation=2.0)
    with pytest.raises(QsdError, match=r"fid <= 0.3 with confidence 0.9; .*the data cannot tell: \d+ bytes"):
        smallest_within(task, unsure, [Bound("fid", 0.3)], 0.9)  # type: ignore[arg-type]
    with pytest.raises(QsdError, match="ease the bound or allow larger options"):
        smallest_within(task, Known(), [Bound("fid", 0.01)], 0.9)  # type: ignore[arg-type]
    with pytest.raises(QsdError, match="does not predict 'clip', only fid, psnr"):
        smallest_within(task, Known(), [Bound("clip", 20)], 0.9)  # type: ignore[arg-type]
    with pytest.raises(QsdError, match=r"confidence 1\.2: give 0\.5"):
        smallest_within(task, Known(), [Bound("fid", 0.3)], 1.2)  # type: ignore[arg-type]


def test_within_full_precision() -> None:
    assert full_precision_bound(Known(), 1.1).value == pytest.approx(0.11)  # type: ignore[arg-type]
    with pytest.raises(QsdError, match=r"at least 1, such as 1\.1x"):
        full_precision_bound(Known(), 0.9)  # type: ignore[arg-type]
    with pytest.raises(QsdError, match="does not say full precision's clip"):
        full_precision_bound(Known(), 1.1, "clip")  # type: ignore[arg-type]
