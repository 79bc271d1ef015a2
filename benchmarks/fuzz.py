"""Damaged and strange files, fed to every reader: each must refuse in one line or read what was written.

    python benchmarks/fuzz.py
    python benchmarks/fuzz.py --count 500 --seed 1 --kinds store,bank
    python benchmarks/fuzz.py --state runs/fuzz.json       # in parts of 500; run again, it goes on

Makes one small file of each kind, mutates it (bits, blocks, cuts; entries of JSON and of headers; datasets of
HDF5), reads it in a child process with limits on time and memory, and compares what was read with the
original. Prints, by kind, how many inputs were refused in one line, read as they were, or read with other
values; how many ended in a traceback, in a hang, or out of memory; and how many crashed a library underneath,
which is no more than counted. Exits with 1 if there is a traceback, a hang, a changed value or too much
memory.

Kinds without hashes are marked: there a changed value is what a person may have typed. A journal that is cut
at its end reads as the records that are whole, since a kill while writing leaves the same.
"""

import argparse
import collections
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where a test loads this file

from fuzz_kinds import Kind, kinds
from fuzz_mutations import mutate

SECONDS, MEMORY = 20, 3 * 2**30
BAD = ("changed", "traceback", "hang", "memory")
_PART = 500
OUTCOMES = ("refused", "same", *BAD, "crash outside")


def _child(kind: Kind, accepted: set[str], seeds: list[int], folder: Path, answers: Connection) -> None:
    """Reads mutated files, one after another, and says what came of each."""
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    source = (kind.folder / kind.file).read_bytes()
    place = folder / "input"
    shutil.copytree(kind.folder, place)
    from qsd.support.errors import QsdError

    for seed in seeds:
        data = mutate(source, kind.file, np.random.default_rng(seed), folder / "scratch")
        (place / kind.file).write_bytes(data)
        answers.send(("begins", seed, ""))
        try:
            found = kind.read(place)
            outcome, detail = ("same" if found in accepted else "changed"), ""
        except QsdError as error:
            one_line = "\n" not in str(error)
            outcome, detail = ("refused", "") if one_line else ("traceback", f"several lines: {error}")
        except MemoryError:
            outcome, detail = "memory", traceback.format_exc()
        except BaseException:
            outcome, detail = "traceback", traceback.format_exc()
        answers.send((outcome, seed, detail))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run(count: int, seed: int, chosen: list[str] | None = None, *, verbose: bool = True) -> dict[str, Any]:
    """Feeds inputs to readers.

    Args:
        count: inputs in all.
        seed: equal seeds give equal inputs.
        chosen: kinds; None for all.
        verbose: print a line for each kind.

    Returns:
        ``table``, outcomes by kind, and ``details`` [kind, outcome, seed, text] of the bad ones.
    """
    details: list[list[Any]] = []
    table: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = kinds(Path(folder))
        names = chosen or list(made)
        total = sum(made[name].weight for name in names)
        for number, name in enumerate(names):
            share = max(1, round(count * made[name].weight / total))
            seeds = [seed * 1_000_003 + number * 100_003 + index for index in range(share)]
            counts, bad = _run_kind(made[name], seeds, Path(folder))
            table[name] = dict(counts)
            details += [[name, *entry] for entry in bad]
            if verbose:
                print(_row(name + ("" if made[name].hashed else " *"), table[name]), flush=True)
    return {"table": table, "details": details}


def run_parts(count: int, seed: int, chosen: list[str] | None, state: Path) -> dict[str, Any]:
    """The same in parts with seeds of their own, each of which is kept in a file and not run again."""
    done: list[dict[str, Any]] = json.loads(state.read_text()) if state.exists() else []
    while (have := sum(sum(_total(part["table"]).values()) for part in done)) < count:
        print(f"part {len(done)}, {have} inputs until now", flush=True)
        done.append(run(min(_PART, count - have), seed + len(done), chosen))
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(json.dumps(done))
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for part in done:
        for name, counts in part["table"].items():
            table[name].update(counts)
    return {"table": table, "details": [detail for part in done for detail in part["details"]]}


def _total(table: dict[str, dict[str, int]]) -> collections.Counter[str]:
    return sum(map(collections.Counter, table.values()), collections.Counter())


def _run_kind(
    kind: Kind, seeds: list[int], folder: Path
) -> tuple[collections.Counter[str], list[tuple[str, int, str]]]:
    context = multiprocessing.get_context("fork")
    accepted = kind.accepted(folder / "scratch")
    counts: collections.Counter[str] = collections.Counter()
    bad: list[tuple[str, int, str]] = []
    left = list(seeds)
    while left:
        ours, theirs = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            process = context.Process(target=_child, args=(kind, accepted, left, Path(place), theirs))
            process.start()
            theirs.close()
            begun, began = left[0], time.monotonic()
            while left:
                try:
                    if not ours.poll(max(0.0, began + SECONDS - time.monotonic())):
                        counts["hang"] += 1
                        bad.append(("hang", begun, ""))
                        left.remove(begun)
                        break
                    outcome, begun, detail = ours.recv()
                except EOFError:
                    counts["crash outside"] += 1
                    process.join()
                    bad.append(("crash outside", begun, f"exit {process.exitcode}"))
                    left.remove(begun)
                    break
                began = time.monotonic()
                if outcome == "begins":
                    continue
                if outcome == "changed" and not kind.hashed:
                    outcome = "same"  # a person may have typed it
                counts[outcome] += 1
                if outcome in BAD:
                    bad.append((outcome, begun, detail))
                left.remove(begun)
            process.kill()
            process.join()
    return counts, bad


def _row(name: str, counts: dict[str, int]) -> str:
    return f"{name:<18}" + "".join(f"{counts.get(outcome, 0):>10}" for outcome in OUTCOMES)


def main() -> int:
    """Prints the table and the first details."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="comma-separated; all by default")
    parser.add_argument("--state", type=Path, help="JSON file: run in parts and go on where it was")
    parser.add_argument("--details", type=int, default=5, help="tracebacks to show")
    arguments = parser.parse_args()
    print(f"{'':<18}" + "".join(f"{outcome.split()[0]:>10}" for outcome in OUTCOMES))
    start = time.monotonic()
    chosen = arguments.kinds.split(",") if arguments.kinds else None
    if arguments.state:
        found = run_parts(arguments.count, arguments.seed, chosen, arguments.state)
        for name, counts in found["table"].items():
            print(_row(name, counts))
    else:
        found = run(arguments.count, arguments.seed, chosen)
    total = _total(found["table"])
    print(_row("all", total))
    print(f"{sum(total.values())} inputs, {time.monotonic() - start:.0f} s; * values are not hashed")
    for name, outcome, seed, text in found["details"][: arguments.details]:
        print(f"\n{name}, seed {seed}: {outcome}\n{text}")
    return int(any(total[outcome] for outcome in BAD))


if __name__ == "__main__":
    raise SystemExit(main())
