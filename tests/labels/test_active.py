"""Choosing what to label next: within the budget, no config twice, and better than chance."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from support.synthetic_store import synthetic_fid, synthetic_header, synthetic_responses

from qsd.bank.sizes import average_bits, config_bytes
from qsd.labels import Job, jobs_of_stream, label
from qsd.labels.active import ActiveSettings, expected_improvement, label_actively
from qsd.store import Header, Store
from qsd.support.errors import QsdError

BUDGET = 4.0


def header_of(probed: bool = True) -> Header:
    header = synthetic_header(num_blocks=2)
    header = dataclasses.replace(header, conditions={"config_seed": 0, "num_images": 8})
    return dataclasses.replace(header, responses=synthetic_responses(header)) if probed else header


HEADER = header_of()


def measure(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
    for job in jobs:
        yield job, {"fid": float(synthetic_fid(HEADER, job.config[None])[0])}, 0.0


def bits_of(configs: np.ndarray) -> np.ndarray:
    return average_bits(config_bytes(configs, HEADER.num_bytes), HEADER.num_weights)


def test_chosen_configs_keep_the_budget_and_beat_chance(tmp_path: Path) -> None:
    settings = ActiveSettings(max_bits=BUDGET, batch=6)
    with Store.writing(tmp_path / "s.h5", lambda: HEADER) as store:
        label(store, jobs_of_stream(store, 12, 0), measure)
        messages: list[tuple[int, int]] = []
        label_actively(
            *(store, HEADER, 18, 0, measure, settings),
            num_images=4,
            progress=lambda done, total, _: messages.append((done, total)),
        )
    records = Store.open(tmp_path / "s.h5").records
    chosen = records.select(records.index < 0)
    assert sorted(chosen.index) == list(range(-18, 0))
    assert (chosen.split == 0).all()
    assert (chosen.num_images == 4).all()
    assert messages == [(done, 18) for done in range(1, 19)]
    assert (bits_of(chosen.config) <= BUDGET).all()
    assert len(np.unique(records.config, axis=0)) == 30
    with Store.writing(tmp_path / "chance.h5", lambda: HEADER) as store:
        label(store, jobs_of_stream(store, 200, 0), measure)
    affordable = bits_of(store.records.config) <= BUDGET
    assert chosen.labels[:, 0].min() < np.quantile(store.records.labels[affordable, 0], 0.02)


def test_it_begins_without_labels(tmp_path: Path) -> None:
    with Store.writing(tmp_path / "s.h5", lambda: HEADER) as store:
        label_actively(store, HEADER, 3, 0, measure, ActiveSettings(batch=2))
        label_actively(store, HEADER, 3, 0, measure, ActiveSettings(batch=2))  # nothing is left to do
    assert sorted(store.records.index) == [-3, -2, -1]


@pytest.mark.parametrize(("mean", "std", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 0.0), (-1.0, 0.2, 1.0)])
def test_expected_improvement_is_the_integral(mean: float, std: float, best: float) -> None:
    integral = quad(lambda x: (x - best) * norm.pdf(x, mean, std), best, best + 12, epsabs=1e-14)[0]
    found = expected_improvement(np.array([mean]), np.array([std**2]), best)[0]
    assert found == pytest.approx(integral, rel=1e-6, abs=1e-12)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with (
        Store.writing(tmp_path / "plain.h5", lambda: header_of(probed=False)) as store,
        pytest.raises(QsdError, match="needs a probed store; run `qsd probe` first"),
    ):
        label_actively(store, HEADER, 3, 0, measure, ActiveSettings())
    with (
        Store.writing(tmp_path / "s.h5", lambda: HEADER) as store,
        pytest.raises(QsdError, match=r"none of 10000 random configs has at most 1\.0 bits"),
    ):
        label_actively(store, HEADER, 3, 0, measure, ActiveSettings(max_bits=1.0))
    with pytest.raises(QsdError, match="batch is 0"):
        ActiveSettings(batch=0)
