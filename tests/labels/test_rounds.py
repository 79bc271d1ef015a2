"""Verification in rounds on a store with a known truth."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t
from support.synthetic_store import synthetic_fid, synthetic_store

from qsd.labels import Job
from qsd.labels.rounds import FIRST_SEED, summary, verify_rounds
from qsd.ranker.checkpoint import Ranker, load_ranker, save_ranker
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.search import METHODS, Budget, Front, SearchSettings, Space, Task
from qsd.store import Store
from qsd.support.errors import QsdError

QUICK = SearchSettings(population=24, generations=6, improve_rounds=4, additive_samples=60)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic_store(tmp_path / "a.h5", 40, 1, probed=True)


@pytest.fixture
def ranker(store: Store, tmp_path: Path) -> Ranker:
    data = prepare(store, Target("-log(fid)"), folds=2)
    posteriors = fit_posteriors(Ensemble(), data)
    save_ranker(
        *(tmp_path / "ranker", Ensemble(), [store.header], "-log(fid)", [posteriors]),
        network=NetworkSettings(),
        last_seeds=[data.last_seed],
    )
    return load_ranker(tmp_path / "ranker")


def search(ranker: Ranker, number: int) -> Front:
    header = ranker.header
    space = Space.make(header.num_bytes, header.num_weights, header.options)
    budget = Budget.make(space.num_bytes, space.num_weights, max_bits=4.0)
    return METHODS["evolution"](Task(space, budget, ranker, settings=QUICK, seed=number))


def test_rounds_measure_append_and_learn(store: Store, ranker: Ranker) -> None:
    header = store.header

    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        for job in jobs:
            noise = np.random.default_rng(job.noise_seed).normal(0, 0.02)
            fid = float(synthetic_fid(header, job.config[None])[0] * np.exp(noise))
            yield job, {"fid": fid, "clip": 30 - 3 * np.log(fid), "extra": 1.0}, 0.5

    before = len(store.records)
    with Store.writing(store.path) as writing:
        rounds, learned = verify_rounds(writing, ranker, search, run, verify=3, rounds=2)
    again = Store.open(store.path)
    chosen = again.records.index < 0
    assert len(again.records) == before + 2 * 3 * 2
    assert len(set(again.records.index[chosen].tolist())) == chosen.sum() == 12
    assert (again.records.split[chosen] == 0).all()
    assert set(again.records.noise_seed[chosen].tolist()) == {FIRST_SEED + place for place in range(4)}
    for one in rounds:
        truth = -np.log(synthetic_fid(header, one.front.configs[one.members]))
        np.testing.assert_allclose(one.measured, np.repeat(truth[:, None], 2, axis=1), atol=0.1)
        np.testing.assert_allclose(one.optimism, one.predicted - one.measured.mean(axis=1))
        assert one.measured.mean(axis=1)[one.winner] == one.measured.mean(axis=1).max()
        measured = [row for row in one.front.measured if row]
        assert len(measured) == 3
        assert measured[0]["target_interval"][0] < measured[0]["target"] < measured[0]["target_interval"][1]
    config = rounds[0].front.configs[rounds[0].members[:1]]
    truth = float(-np.log(synthetic_fid(header, config))[0])
    old, new = ranker.posterior(config), learned.posterior(config)
    assert abs(new.mean[0] - truth) < 0.1  # it has seen this config
    assert new.variance[0] < old.variance[0]
    assert prepare(again, Target("-log(fid)"), folds=2).known_rows().numel() == 12 + sum(
        1 for index in range(before) if again.records.split[index] != 2
    )


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_call_that_was_stopped_goes_on_and_finds_the_same(store: Store, ranker: Ranker, stop: int) -> None:
    header, measured = store.header, []

    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        for job in jobs:
            if len(measured) == stop:
                raise KeyboardInterrupt
            measured.append(job)
            noise = np.random.default_rng(job.noise_seed).normal(0, 0.02)
            fid = float(synthetic_fid(header, job.config[None])[0] * np.exp(noise))
            yield job, {"fid": fid, "clip": 30 - 3 * np.log(fid)}, 0.5

    twin = store.path.with_name("twin.h5")
    shutil.copy(store.path, twin)
    with pytest.raises(KeyboardInterrupt), Store.writing(store.path) as writing:
        verify_rounds(writing, ranker, search, run, verify=2, rounds=2)
    stopped, stop = stop, -1
    with Store.writing(store.path) as writing:
        again, _ = verify_rounds(writing, ranker, search, run, verify=2, rounds=2)
    assert len(measured) == 8  # nothing was measured twice
    assert sum(one.reused for one in again) == stopped
    with Store.writing(twin) as writing:
        at_once, _ = verify_rounds(writing, ranker, search, run, verify=2, rounds=2)
    for one, other in zip(again, at_once, strict=True):
        np.testing.assert_array_equal(one.front.configs, other.front.configs)
        np.testing.assert_array_equal(one.measured, other.measured)
    with Store.writing(store.path) as writing:  # more rounds go on behind those that are known
        more, _ = verify_rounds(writing, ranker, search, run, verify=2, rounds=3)
    assert [one.reused for one in more] == [4, 4, 0]


def test_noise_that_a_ranker_has_learned_from_is_not_fresh(
    store: Store, ranker: Ranker, tmp_path: Path
) -> None:
    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        for job in jobs:
            fid = float(synthetic_fid(store.header, job.config[None])[0])
            yield job, {"fid": fid, "clip": 1.0}, 0.5

    with Store.writing(store.path) as writing:
        verify_rounds(writing, ranker, search, run, verify=2, rounds=1)
    data = prepare(Store.open(store.path), Target("-log(fid)"), folds=2)
    assert data.last_seed == FIRST_SEED + 1
    save_ranker(
        *(tmp_path / "new", Ensemble(), [store.header], "-log(fid)", [fit_posteriors(Ensemble(), data)]),
        network=NetworkSettings(),
        last_seeds=[data.last_seed],
    )
    with Store.writing(store.path) as writing:
        (found,), _ = verify_rounds(writing, load_ranker(tmp_path / "new"), search, run, verify=2, rounds=1)
    assert found.reused == 0 and found.front.measured[found.members[0]]["seeds"][0] == FIRST_SEED + 2


def test_labels_count_where_chosen_configs_came_first(tmp_path: Path) -> None:
    drawn = synthetic_store(tmp_path / "drawn.h5", 12, 1, probed=True)
    Store.create(tmp_path / "a.h5", drawn.header)
    with Store.writing(tmp_path / "a.h5") as store:
        for row, index in ((0, -1), *((row, row) for row in range(12))):
            labels = dict(zip(drawn.header.label_names, drawn.records.labels[row].tolist(), strict=True))
            seed, config = FIRST_SEED if index < 0 else 0, drawn.records.config[row]
            store.append(index=index, config=config, labels=labels, noise_seed=seed, seconds=1.0)
    data = prepare(Store.open(tmp_path / "a.h5"), Target("-log(fid)"), folds=2)
    assert len(data.configs) == 13


def test_a_target_that_is_not_measured_is_named(store: Store, ranker: Ranker) -> None:
    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        for job in jobs:
            yield job, {"clip": 1.0}, 0.1

    with Store.writing(store.path) as writing, pytest.raises(QsdError, match="no measured 'fid'"):
        verify_rounds(writing, ranker, search, run, verify=1, rounds=1)
    with Store.writing(store.path) as writing, pytest.raises(QsdError, match="each must be at least 1"):
        verify_rounds(writing, ranker, search, run, verify=1, rounds=0)


def test_an_interval_is_students() -> None:
    row = summary([{"fid": 1.0}, {"fid": 2.0}, {"fid": 4.0}], np.array([1.0, 2.0, 4.0]), [1, 2, 3])
    low, high = t.interval(0.9, 2, loc=7 / 3, scale=np.std([1, 2, 4], ddof=1) / 3**0.5)
    assert row["target_interval"] == pytest.approx([low, high])
    assert (row["fid"], row["seeds"]) == (pytest.approx(7 / 3), [1, 2, 3])
