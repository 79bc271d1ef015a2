"""Kills what writes stores at random instants, fills the disk, damages shards, and counts what was lost.

    python benchmarks/torture.py
    python benchmarks/torture.py --kills 20 --seed 1

Labeling (one writer, two shards, three shards), probing and merging run in child processes on the header of a
shipped store, with measurements that cost nothing, so that the instants fall into the writing. A child says
on a pipe what was stored as soon as the store says so; then it is killed, and the store is opened again.
Everything that was said must be there, once, with the very labels. In the end the work is finished and must
be, bit for bit, what one process writes that nobody kills. Exits with 1 if anything was lost.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qsd.labels import Job, jobs_of_stream, label
from qsd.labels.probing import Cells, probe, summarized
from qsd.labels.shards import Shard, Shards, shard_files
from qsd.store import Header, Store
from qsd.store.merging import merge
from qsd.support.errors import QsdError
from qsd.support.hashing import array_hash
from qsd.support.paths import find

SOURCE = "datasets/digits-dit.h5"
Counts = collections.Counter[str]
_LONGEST = 0.12  # seconds until a kill
_CONFIGS = 60


def main() -> int:
    """Runs all cases and prints their counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=200, help="of each kind of work; a third of it for merging"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = run(arguments.kills, arguments.seed)
    for case, counts in found.items():
        print(f"{case:<22}" + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return int(any(is_loss(counts) for counts in found.values()))


def is_loss(counts: Counts) -> bool:
    """Whether anything went wrong."""
    return bool(counts["lost"] or counts["wrong"] or counts["unreadable"] or counts["unnoticed"])


def run(kills: int, seed: int) -> dict[str, Counts]:
    """All cases.

    Args:
        kills: of each kind of work.
        seed: of the instants.
    """
    rng = random.Random(seed)
    header = _header()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = _alone(folder / "alone.h5", header)
        found = {
            f"label, {writers} writer{'s' * (writers > 1)}": _labeling(
                folder / f"label-{writers}", header, writers, kills, rng, expected
            )
            for writers in (1, 2, 3)
        }
        found["probe"] = _probing(folder / "probe", header, kills, rng)
        found["merge"] = _merging(folder / "merge", header, max(kills // 3, 4), rng, expected)
        found["disk full"] = _full_disk(folder / "full", header, max(kills // 10, 3), rng)
        found["read-only"] = _read_only(folder / "read-only", header)
        found["damaged shard"] = _damage(folder / "damage", header, max(kills // 2, 6), rng, expected)
    return found


def _header() -> Header:
    header = Store.open(find(SOURCE)).header
    return dataclasses.replace(header, responses=None, conditions={"config_seed": 0, "num_images": 8})


def _measure(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, float], float]]:
    for job in jobs:
        value = float(np.random.default_rng([job.index, job.noise_seed]).random()) + 0.1
        time.sleep(0.001)
        yield job, {"fid": value}, 0.0


def _label_all(path: Path, header: Header, say: Callable[[str], None]) -> None:
    with Store.writing(path, lambda: header) as store:
        _told(store, jobs_of_stream(store, _CONFIGS, 0), say)


def _told(store: Store, jobs: Any, say: Callable[[str], None]) -> None:
    class Saying:
        def __call__(self, done: int, total: int, message: str) -> None:
            say(str(store.records.index[-1]))

    if jobs:
        label(store, jobs, _measure, Saying())


def _alone(path: Path, header: Header) -> str:
    _label_all(path, header, lambda _: None)
    return _content(path)


def _content(path: Path) -> str:
    """A hash of all records in the order of their indices; seconds are nobody's promise."""
    records = Store.open(path).records
    rows = records.select(np.argsort(records.index, kind="stable"))
    columns = [values for name, values in vars(rows).items() if name != "seconds"]
    return "".join(map(array_hash, columns))


def _child(work: Callable[[Callable[[str], None]], None]) -> tuple[int, int]:
    """Begins work in a child; its number and where to read what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(reading)
        work(lambda text: os.write(writing, f"{text}\n".encode()) and None)
        code = 0
    except QsdError as error:
        with contextlib.suppress(OSError):
            os.write(writing, f"error {error}\n".encode())
    finally:
        os._exit(code)


def _said(reading: int) -> list[str]:
    with os.fdopen(reading) as file:
        return [line.rstrip("\n") for line in file if line.endswith("\n")]


def _labeling(
    folder: Path, header: Header, writers: int, kills: int, rng: random.Random, expected: str
) -> Counts:
    counts, said, round_ = Counts(), set[int](), 0
    path = folder / "s.h5"

    def work(number: int) -> Callable[[Callable[[str], None]], None]:
        def of_shard(say: Callable[[str], None]) -> None:
            with (
                Shards(path, Shard(f"w{number}", expiry=5.0)) as shards,
                shards.opened(lambda own: Store.writing(own, lambda: header)) as store,
            ):
                _told(store, shards.jobs(jobs_of_stream(store, _CONFIGS, 0)), say)

        return (lambda say: _label_all(path, header, say)) if writers == 1 else of_shard

    while counts["kills"] < kills:
        children = [_child(work(number)) for number in range(writers)]
        for pid, _ in children:
            time.sleep(rng.uniform(0, _LONGEST / writers))
            os.kill(pid, signal.SIGKILL)
            counts["kills"] += 1
        for pid, reading in children:
            os.waitpid(pid, 0)
            said |= {int(line) for line in _said(reading) if line.isdecimal()}
        round_ += 1
        stored = _stored(path, writers, counts)
        counts["lost"] += len(said - stored)
        if len(stored) == _CONFIGS:  # begin again, so that all kills hit somebody at work
            _finish(path, writers, header, expected, counts)
            said, path = set(), folder / f"{round_}.h5"
    for number in range(writers):
        pid, reading = _child(work(number))
        _said(reading)
        os.waitpid(pid, 0)
    _finish(path, writers, header, expected, counts)
    return counts


def _stored(path: Path, writers: int, counts: Counts) -> set[int]:
    """The indices on disk; counts what cannot be read, and what a store holds twice."""
    files = [path] if writers == 1 else sorted(path.with_name(f"{path.name}.shards").glob("*.h5"))
    stored: set[int] = set()
    for file in files:
        if file.exists():
            try:
                indices = Store.open(file).records.index.tolist()
            except QsdError as error:
                print(error, file=sys.stderr)
                counts["unreadable"] += 1
                continue
            counts["wrong"] += len(indices) - len(set(indices))
            counts["done twice"] += len(stored & set(indices))
            stored |= set(indices)
    return stored


def _finish(path: Path, writers: int, header: Header, expected: str, counts: Counts) -> None:
    if writers > 1:
        merge(path, shard_files(path.with_name(f"{path.name}.shards")))
    counts["stores finished"] += 1
    counts["wrong"] += _content(path) != expected


def _probing(folder: Path, header: Header, kills: int, rng: random.Random) -> Counts:
    counts, said, round_ = Counts(), set[str](), 0
    path = folder / "s.h5"
    settings: Any = dataclasses.make_dataclass("Settings", ["num_images", "noise_seed"])(4, 0)

    def draw(all_cells: Iterable[Cells]) -> Iterator[tuple[Cells, dict[str, np.ndarray]]]:
        for cells in all_cells:
            time.sleep(0.001)
            values = np.random.default_rng(cells.layer).normal(size=(len(cells.columns), 4 * 8))
            yield cells, {"latents": values.astype(np.float32)}

    def work(say: Callable[[str], None]) -> None:
        with Store.writing(path, lambda: header) as store:
            table: Any = header  # knows layers and options as a bank does
            probe(store, table, settings, draw, provenance={}, progress=lambda done, total, name: say(name))

    while counts["kills"] < kills:
        pid, reading = _child(work)
        time.sleep(rng.uniform(0, _LONGEST))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        counts["kills"] += 1
        round_ += 1
        said |= set(_said(reading))
        if not path.exists():
            continue
        responses = Store.open(path).header.responses
        missing = set() if responses is None else {header.layers[i].name for i in responses.missing()}
        known = set() if responses is None else {layer.name for layer in header.layers} - missing
        counts["lost"] += len(said - known)
        if responses is not None and not responses.sketched:
            counts["stores finished"] += 1
            said, path = set(), folder / f"{round_}.h5"
    return counts


def _merging(folder: Path, header: Header, kills: int, rng: random.Random, expected: str) -> Counts:
    counts = Counts()
    shards = _shards(folder, header)
    for number in range(kills):
        out = folder / f"{number}.h5"
        pid, reading = _child(lambda say, out=out: merge(out, shards, summarized) and None)
        time.sleep(rng.uniform(0, _LONGEST / 2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        counts["kills"] += 1
        if out.exists():
            held = len(Store.open(out).records)
            counts["wrong"] += held not in (0, _CONFIGS)
            counts["merged before"] += held == _CONFIGS
        merge(out, shards)
        counts["wrong"] += _content(out) != expected
        out.unlink()
    return counts


def _shards(folder: Path, header: Header) -> list[Path]:
    paths = []
    for number in (1, 2, 3):
        own = Shard.parse(f"{number}/3", {})
        with (
            Shards(folder / "s.h5", own) as shards,
            shards.opened(lambda path: Store.writing(path, lambda: header)) as store,
        ):
            label(store, shards.jobs(jobs_of_stream(store, _CONFIGS, 0)), _measure)
            paths.append(store.path)
    return paths


def _full_disk(folder: Path, header: Header, times: int, rng: random.Random) -> Counts:
    """Files may not grow beyond a limit that lies somewhere in the journal."""
    counts = Counts()
    for number in range(times):
        path = folder / f"{number}.h5"
        with Store.writing(path, lambda: header):
            pass
        most = path.stat().st_size
        limit = rng.randint(100, min(5000, most))

        def work(say: Callable[[str], None], path: Path = path, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                _label_all(path, header, say)
            except OSError as error:  # `qsd` says it in one line
                raise QsdError(str(error)) from error

        pid, reading = _child(work)
        lines = _said(reading)
        os.waitpid(pid, 0)
        counts["refused"] += any(line.startswith("error ") for line in lines)
        said = {int(line) for line in lines if line.isdecimal()}
        counts["lost"] += len(said - set(Store.open(path).records.index.tolist()))
        _label_all(path, header, lambda _: None)
        counts["wrong"] += len(Store.open(path).records) != _CONFIGS
        counts["stores finished"] += 1
    return counts


def _read_only(folder: Path, header: Header) -> Counts:
    counts = Counts()
    path = folder / "s.h5"
    _label_all(path, header, lambda _: None)
    before = path.read_bytes()
    shards = folder / "t.h5.shards"
    shards.mkdir()
    path.chmod(0o444)
    shards.chmod(0o555)
    for work in (
        lambda: _label_all(path, header, lambda _: None),
        lambda: merge(path, [path]),
        lambda: Shards(folder / "t.h5", Shard("w")),
    ):
        try:
            work()
            counts["unnoticed"] += 1
        except QsdError:
            counts["refused"] += 1
    counts["wrong"] += path.read_bytes() != before
    shards.chmod(0o755)
    return counts


def _damage(folder: Path, header: Header, times: int, rng: random.Random, expected: str) -> Counts:
    counts = Counts()
    shards = _shards(folder, header)
    for number in range(times):
        shard, out = rng.choice(shards), folder / f"merged-{number}.h5"
        content = shard.read_bytes()
        at = rng.randrange(len(content))
        shard.write_bytes(content[:at] + rng.randbytes(512) + content[at + 512 :])
        try:
            merge(out, shards)
            same = _content(out) == expected
            counts["harmless" if same else "unnoticed"] += 1
        except QsdError:
            counts["refused"] += 1
        shard.write_bytes(content)
        out.unlink(missing_ok=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
