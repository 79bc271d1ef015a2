"""Leases and shards: nothing twice, nothing lost, dead owners found without comparing clocks."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.synthetic_store import synthetic_header

from qsd.cli import main
from qsd.cli.processes import own_shard
from qsd.configs.sampling import sample_configs
from qsd.labels import Job, jobs_of_stream, label
from qsd.labels.leases import Claims, Leases
from qsd.labels.shards import Shard, Shards, shard_files
from qsd.store import Header, Store
from qsd.store.merging import merge
from qsd.support.errors import QsdError

HEADER = dataclasses.replace(synthetic_header(num_blocks=1), conditions={"config_seed": 3, "num_images": 4})


def measure(jobs: Iterator[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
    """Labels that are a function of the config alone, as those of one kind of machine are."""
    for job in jobs:
        value = float(np.square(job.config + 1.0).sum())
        yield job, dict.fromkeys(HEADER.label_names, value), 0.0


def one_process(path: Path, shard: Shard, count: int, header: Header = HEADER, pause: float = 0.0) -> int:
    """What `qsd label --shard` does, with labels that cost nothing; how many it made."""

    def slowly(jobs: Iterator[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        for measured in measure(jobs):
            time.sleep(pause)
            yield measured

    with Shards(path, shard) as shards, shards.opened(lambda own: Store.writing(own, lambda: header)) as own:
        before = len(own.records)
        mine = shards.jobs(jobs_of_stream(own, count, 0))
        if mine:
            label(own, mine, slowly)
        return len(own.records) - before


def records_of(path: Path) -> list[np.ndarray]:
    return [values for name, values in vars(Store.open(path).records).items() if name != "seconds"]


def alone(folder: Path, count: int) -> list[np.ndarray]:
    with Store.writing(folder / "alone.h5", lambda: HEADER) as store:
        label(store, jobs_of_stream(store, count, 0), measure)
    return records_of(folder / "alone.h5")


def test_shards_are_the_records_of_one_process(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    made: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: made.append(one_process(path, Shard("host", fixed=False), 24, pause=0.005))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 24
    assert len(shard_files(tmp_path / "s.h5.shards")) == 4
    assert not list((tmp_path / "s.h5.shards").glob("*.lease"))
    merge(path, shard_files(tmp_path / "s.h5.shards"))
    expected = alone(tmp_path, 24)
    for found, wanted in zip(records_of(path), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert one_process(path, Shard("late"), 24) == 0  # the whole store is looked into, too
    assert one_process(path, Shard("late"), 26) == 2


def test_fixed_shares_need_no_shared_folder(tmp_path: Path) -> None:
    counts = [
        one_process(tmp_path / str(number) / "s.h5", Shard.parse(f"{number}/3", {}), 10)
        for number in (1, 2, 3)
    ]
    assert counts == [4, 3, 3]
    assert (
        main(["store", "merge", str(tmp_path / "s.h5"), *(f"{tmp_path}/{i}/s.h5.shards" for i in "123")]) == 0
    )
    for found, wanted in zip(records_of(tmp_path / "s.h5"), alone(tmp_path, 10), strict=True):
        np.testing.assert_array_equal(found, wanted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(QsdError, match=r"empty: holds no stores \(\*\.h5\)"):
        shard_files(tmp_path / "empty")


def test_work_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"

    def dies(jobs: Iterator[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
        for number, measured in enumerate(measure(jobs)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield measured

    child = os.fork()
    if not child:
        try:
            with (
                Shards(path, Shard("killed")) as shards,
                shards.opened(lambda own: Store.writing(own, lambda: HEADER)) as own,
            ):
                label(own, shards.jobs(jobs_of_stream(own, 6, 0)), dies)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert len(list(path.parent.glob("s.h5.shards/*.lease"))) == 1
    assert len(Store.open(tmp_path / "s.h5.shards" / "killed.h5").records) == 2
    assert one_process(path, Shard("other"), 6) == 4
    merged = merge(path, shard_files(tmp_path / "s.h5.shards"))
    assert (merged.added, merged.repeated) == (6, 0)


def lease(folder: Path, key: str, shift: float) -> Path:
    """One of another machine whose clock is off by so many seconds."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.lease"
    path.write_text("0123 " + json.dumps({"owner": "far", "machine": "elsewhere", "pid": 1}))
    os.utime(path, (time.time() + shift, time.time() + shift))
    return path


@pytest.mark.parametrize("shift", [-3600, 3600])
def test_clocks_are_not_compared(tmp_path: Path, shift: float) -> None:
    path = lease(tmp_path / "l", "a", shift)
    with Leases(tmp_path / "l", "me", expiry=0.2) as leases:
        assert not leases.acquire("a")
        for touch in range(4):  # its owner lives, whatever its clock says
            time.sleep(0.1)
            os.utime(path, (time.time() + shift + touch, time.time() + shift + touch))
            assert not leases.acquire("a")
        time.sleep(0.25)
        assert leases.acquire("a")  # and now it is silent
        assert not Leases(tmp_path / "l", "another").acquire("a")


def test_a_clock_an_hour_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases, now = Leases(tmp_path, "me"), time.time()
    assert leases.remark() == ""
    monkeypatch.setattr("qsd.labels.leases.time.time", lambda: now + 3600)
    assert "clock is 60 minutes ahead of that of" in leases.remark()
    monkeypatch.setattr("qsd.labels.leases.time.time", lambda: now - 3600)
    assert "60 minutes behind that of" in leases.remark()


def test_a_lease_that_was_taken_over_stays_with_its_new_owner(tmp_path: Path) -> None:
    sleeper = Leases(tmp_path, "sleeper")
    assert sleeper.acquire("a")
    (tmp_path / "a.lease").unlink()
    other = Leases(tmp_path, "other")
    assert other.acquire("a")
    sleeper.release("a")
    assert (tmp_path / "a.lease").exists()
    other.release("a")
    assert not (tmp_path / "a.lease").exists()


def test_claims_wait_for_what_others_hold(tmp_path: Path) -> None:
    other, mine = Leases(tmp_path, "other"), Leases(tmp_path, "mine")
    assert other.acquire("b")
    done: set[str] = set()
    threading.Timer(0.1, lambda: (done.add("b"), other.release("b"))).start()
    claims = Claims(["a", "b", "c"], str, mine, lambda: done, begin=2, pause=0.02)
    assert list(claims) == ["c", "a"]
    assert len(claims) == 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    one_process(path, Shard("a"), 2)
    other = dataclasses.replace(HEADER, conditions={"config_seed": 3, "num_images": 5})
    with pytest.raises(QsdError, match=r"a\.h5: a shard of other work, it differs from b\.h5 in num_images"):
        one_process(path, Shard("b"), 2, other)
    with (
        Store.writing(tmp_path / "s.h5.shards" / "a.h5"),
        pytest.raises(QsdError, match=r"a\.h5: another process is writing this store"),
    ):
        one_process(path, Shard("a"), 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(QsdError, match="leases cannot be written there"):
        Leases(tmp_path / "file" / "x", "me")
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(QsdError, match=r"locked: leases cannot be written there \(permission denied\)"):
        Leases(tmp_path / "locked", "me")
    (tmp_path / "s.h5.shards" / "z.h5").write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    with pytest.raises(QsdError, match=r"z\.h5: .*damaged"):
        one_process(path, Shard("a"), 2)


def test_names_of_processes() -> None:
    def name(**environment: str) -> str:
        return Shard.parse("auto", environment).name

    assert name(SLURM_ARRAY_TASK_ID="7", SLURM_PROCID="0", RANK="3") == "array-7-0"
    assert name(SLURM_PROCID="5") == "task-5"
    assert name(JOB_COMPLETION_INDEX="2") == "index-2"
    assert name(RANK="3") == "rank-3"
    assert name().startswith("host-")
    assert Shard.parse("3/8", {}) == Shard("3-of-8", (3, 8))
    for wrong in ("0/4", "5/4", "a b", "../x", ""):
        with pytest.raises(QsdError, match="shard"):
            Shard.parse(wrong, {})
    with pytest.raises(QsdError, match="--shard and --workers"):
        own_shard("auto", 2)


def test_configs_are_those_of_the_stream(tmp_path: Path) -> None:
    one_process(tmp_path / "s.h5", Shard.parse("2/2", {}), 4)
    records = Store.open(tmp_path / "s.h5.shards" / "2-of-2.h5").records
    assert records.index.tolist() == [1, 3]
    stream = sample_configs(HEADER.options, len(HEADER.layers), 4, 3, 0, HEADER.available)
    np.testing.assert_array_equal(records.config, stream[[1, 3]])
