"""Appending records to a large store: this build against the one before there was a journal, in one run.

    python benchmarks/append.py
    python benchmarks/append.py --records 5000 --layers 800 --appended 300

Makes the same store (5,000 records x 800 layers) with both builds, the older one checked out of git into a
temporary worktree, and appends to each in processes of their own, in turns. Prints median seconds and bytes
written per record, and exits with 1 if this build is not 50 times faster, or writes more than 3 times a
record's own bytes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEFORE = "cbeb953"
FACTOR, MOST_BYTES = 50, 3
_ROUNDS = 3
_ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Runs both builds and compares them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--layers", type=int, default=800)
    parser.add_argument("--appended", type=int, default=300)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(_append(Path(arguments.work), arguments)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "before")
        subprocess.run(
            ["git", "-C", str(_ROOT), "worktree", "add", "-q", "--detach", old, BEFORE], check=True
        )
        try:
            rounds = []
            for number in range(_ROUNDS):  # in turns, so that whatever else the machine does falls on both
                paths = (Path(folder, f"{build}{number}.h5") for build in "ab")
                few = max(3, arguments.appended // 50)
                rounds.append(
                    (
                        _run(old, next(paths), arguments, few),
                        _run(_ROOT, next(paths), arguments, arguments.appended),
                    )
                )
            before, now = (_median(runs) for runs in zip(*rounds, strict=True))
        finally:
            subprocess.run(["git", "-C", str(_ROOT), "worktree", "remove", "--force", old], check=True)
    record = 8 + 8 + 4 + 4 + 8 * 2 + 2 * arguments.layers
    faster = before["seconds"] / now["seconds"]
    written = now["bytes"] / record
    print(f"{arguments.records} records x {arguments.layers} layers; a record is {record} bytes")
    print(f"{BEFORE}: {before['seconds'] * 1e3:9.2f} ms and {before['bytes']:12,.0f} bytes per record")
    print(f"now    : {now['seconds'] * 1e3:9.2f} ms and {now['bytes']:12,.0f} bytes per record")
    print(f"{faster:.0f} times faster; {written:.2f} times the record is written")
    print(f"once, at the end of {arguments.appended} records: {now['end']:.2f} s to write the file whole")
    return 0 if faster >= FACTOR and written <= MOST_BYTES else 1


def _median(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _run(build: Path, store: Path, arguments: argparse.Namespace, appended: int) -> dict[str, float]:
    words = [f"--{name}={value}" for name, value in vars(arguments).items() if name in ("records", "layers")]
    command = [sys.executable, __file__, "--work", str(store), "--appended", str(appended), *words]
    environment = {**os.environ, "PYTHONPATH": str(build)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _append(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Makes a store with whichever build is on the path, appends to it, and says what a record costs."""
    import numpy as np

    from qsd.store import Records, Store, split_of_index

    layers, rng = arguments.layers, np.random.default_rng(0)
    header, options = _header(layers)
    index = np.arange(arguments.records)
    columns = {
        "index": index,
        "config": rng.integers(0, options, (len(index), layers)).astype(np.int8),
        "activation": np.zeros((len(index), layers), np.int8),
        "labels": rng.normal(size=(len(index), 2)),
        "noise_seed": np.zeros(len(index), np.int64),
        "split": split_of_index(index).astype(np.int8),
        "seconds": np.ones(len(index), np.float32),
        "num_images": np.zeros(len(index), np.int32),
    }
    records = Records(**{name: columns[name] for name in Records.__dataclass_fields__})
    if hasattr(Store, "writing"):
        Store.create(path, header, records)
        with Store.writing(path) as store:
            seconds = _time(store, arguments, options)
            written = Path(f"{path}.journal").stat().st_size / arguments.appended
            start = time.perf_counter()
        return {"seconds": seconds, "bytes": written, "end": time.perf_counter() - start}
    store = Store(path, header, records)
    store._write()
    return {"seconds": _time(store, arguments, options), "bytes": path.stat().st_size, "end": 0.0}


def _time(store: Any, arguments: argparse.Namespace, options: int) -> float:
    import numpy as np

    rng = np.random.default_rng(1)
    configs = rng.integers(0, options, (arguments.appended, arguments.layers)).astype(np.int8)
    taken = []
    for position, config in enumerate(configs):
        start = time.perf_counter()
        store.append(
            index=arguments.records + position, config=config, labels={"a": 1.0}, noise_seed=0, seconds=1.0
        )
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _header(num_layers: int) -> tuple[Any, int]:
    import numpy as np

    from qsd.denoisers.graph import Graph, Node
    from qsd.denoisers.layers import WeightLayer
    from qsd.quantizers.options import DEFAULT_OPTIONS
    from qsd.store import Header, Label

    names = [f"transformer_blocks.{layer // 10}.layer_{layer % 10}" for layer in range(num_layers)]
    layers = [WeightLayer(name, name, None, "ff.in", "linear", (64, 64), 0) for name in names]
    nodes = tuple(Node(name, "weight", layer, "ff.in", 0, 0, 0.0) for layer, name in enumerate(names))
    edges = np.stack([np.arange(num_layers - 1), np.arange(1, num_layers)])
    shape = num_layers, len(DEFAULT_OPTIONS)
    header = Header(
        denoiser={"class": "Benchmark"},
        layers=layers,
        graph=Graph(nodes, edges),
        options=DEFAULT_OPTIONS,
        num_bytes=np.full(shape, 2048),
        relative_error=np.full(shape, 0.1),
        labels=(Label("a", True, ""), Label("b", True, "")),
        conditions={},
        provenance={},
    )
    return header, len(DEFAULT_OPTIONS)


if __name__ == "__main__":
    raise SystemExit(main())
