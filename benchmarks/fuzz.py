"""Damaged and strange files, fed to every reader: each must refuse in one line or read what was written.

    python benchmarks/fuzz.py
    python benchmarks/fuzz.py --count 500 --seed 1 --kinds store,bank

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
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

SECONDS, MEMORY = 20, 3 * 2**30
BAD = ("changed", "traceback", "hang", "memory")
OUTCOMES = ("refused", "same", *BAD, "crash outside")

Read = Callable[[Path], str]


class Kind:
    """A kind of file: a folder with an original, the file in it that is mutated, and its reader."""

    def __init__(
        self,
        folder: Path,
        file: str,
        read: Read,
        *,
        hashed: bool = True,
        cuts: Sequence[int] = (),
        weight: float = 1,
    ) -> None:
        self.folder = folder
        self.file = file
        self.read = read
        self.hashed = hashed
        self.weight = weight  # how many inputs: fewer where reading is slow
        self.cuts = cuts  # sizes at which the file is whole as well

    def accepted(self, scratch: Path) -> set[str]:
        """Fingerprints of what may be read."""
        found = {self.read(self.folder)}
        content = (self.folder / self.file).read_bytes()
        for size in self.cuts:
            shutil.copytree(self.folder, scratch)
            (scratch / self.file).write_bytes(content[:size])
            found.add(self.read(scratch))
            shutil.rmtree(scratch)
        return found


def kinds(folder: Path) -> dict[str, Kind]:
    """Makes the originals."""
    import torch
    from support.synthetic_store import synthetic_header, synthetic_store
    from support.tiny import tiny_pixart

    from qsd.bank import Bank, build_bank
    from qsd.configs.document import config_to_json, load_config, save_config
    from qsd.export import export
    from qsd.export.read import load_export
    from qsd.quantizers import parse_options
    from qsd.ranker.checkpoint import load_ranker, save_ranker
    from qsd.ranker.ensemble import Ensemble, Member
    from qsd.ranker.features import GraphFeatures
    from qsd.ranker.network import NetworkSettings
    from qsd.ranker.posteriors import TARGET
    from qsd.ranker.predictors import EnsemblePredictor
    from qsd.search.front import Front, FrontMeta
    from qsd.store import Basis, Store
    from qsd.support.yaml_files import read_yaml

    torch.manual_seed(0)
    places = {
        name: folder / name
        for name in ("store", "journal", "bank", "config", "front", "ranker", "export", "yaml")
    }
    for place in places.values():
        place.mkdir()
    with Store.writing(
        synthetic_store(places["store"] / "s.h5", num_records=8, num_blocks=1, probed=True).path
    ) as store:
        responses = store.header.responses
        assert responses is not None
        bases = {
            name: Basis(
                np.ones((size, 4, 2), np.int8), np.ones((size, 4), np.float32), np.ones(4, np.float32)
            )
            for name, size in ((name, values.shape[2]) for name, values in responses.spaces.items())
        }
        responses = dataclasses.replace(responses, bases=bases)
        store.rewrite(dataclasses.replace(store.header, responses=responses))
    path = synthetic_store(places["journal"] / "s.h5", num_records=3, num_blocks=1).path
    try:
        with Store.writing(path) as store:
            for index in range(3, 6):
                config = np.full(len(store.header.layers), index % 3, np.int8)
                store.append(index=index, config=config, labels={"fid": 1.5}, noise_seed=0, seconds=1.0)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    bank = build_bank(tiny_pixart(), parse_options(["uaq-4", "kmeans_c-3", "lloyd-3:f8"]))
    bank.save(places["bank"] / "bank.safetensors")
    names, options = bank.layer_names, [str(option) for option in bank.options]
    config = bank.uniform_config("uaq-4")
    document = config_to_json(config, names, options, bank.denoiser, bank.options_hash, command="qsd")
    save_config(places["config"] / "config.json", document)
    meta = FrontMeta(tuple(names[:4]), tuple(options), denoiser=bank.denoiser)
    numbers = np.array([1.0, 2.0])
    front = Front(
        np.array([[0, 1, 0, 1], [1, 1, 1, 0]], np.int8), numbers, numbers, np.array([9, 12]), numbers, meta
    )
    front.save(places["front"] / "front.json")
    header = synthetic_header(1)
    graph = GraphFeatures.of(header)
    members = Ensemble(
        [Member(NetworkSettings(width=8, depth=2, heads=2), [graph], 1) for _ in range(2)]
    ).eval()
    posteriors = {TARGET: EnsemblePredictor(members, graph, 0, 2.0, 0.25)}
    save_ranker(places["ranker"] / "ranker", members, [header], "-fid", [posteriors])
    export(tiny_pixart(), bank, config, places["export"] / "out")
    text = (
        "base: ranker.yaml\ndata:\n  stores: [a.h5, b.h5]\n  folds: 3\ntrainer: &t {max_epochs: 5}\nx: *t\n"
    )
    (places["yaml"] / "fit.yaml").write_text(text)

    def read_ranker(place: Path) -> str:
        ranker = load_ranker(place / "ranker")
        return _print(ranker.members.state_dict(), ranker.target, vars(ranker.header), ranker.metrics)

    def read_front(place: Path) -> str:
        return _print(vars(Front.load(place / "front.json")))

    def read_store(place: Path) -> str:
        opened = Store.open(place / "s.h5")
        return _print(vars(opened.header), vars(opened.records))

    def read_bank(place: Path) -> str:
        opened = Bank.load(place / "bank.safetensors")
        weights = [weight and weight.tensors() for row in opened.weights for weight in row]
        return _print({key: value for key, value in vars(opened).items() if key != "weights"}, weights)

    def read_config(place: Path) -> str:
        return _print(load_config(place / "config.json", names, options, bank.denoiser))

    def read_export(place: Path) -> str:
        model = load_export(place / "out" / "transformer")
        return _print(model.state_dict())

    size = (places["journal"] / "s.h5.journal").stat().st_size
    cuts = range(40, size, (size - 40) // 3)  # after its header and after each of its three records
    weights = "out/transformer/diffusion_pytorch_model.safetensors"
    return {
        "store": Kind(places["store"], "s.h5", read_store),
        "journal": Kind(places["journal"], "s.h5.journal", read_store, cuts=cuts),
        "journaled store": Kind(places["journal"], "s.h5", read_store),
        "bank": Kind(places["bank"], "bank.safetensors", read_bank),
        "config": Kind(places["config"], "config.json", read_config, hashed=False),
        "front": Kind(places["front"], "front.json", read_front),
        "ranker.json": Kind(places["ranker"], "ranker/ranker.json", read_ranker),
        "ranker member": Kind(places["ranker"], "ranker/member-1.safetensors", read_ranker),
        "ranker posterior": Kind(places["ranker"], "ranker/posterior-0.safetensors", read_ranker),
        "export config": Kind(places["export"], "out/transformer/config.json", read_export, weight=0.4),
        "export weights": Kind(places["export"], weights, read_export, weight=0.4),
        "yaml": Kind(
            places["yaml"], "fit.yaml", lambda place: _print(read_yaml(place / "fit.yaml")), hashed=False
        ),
    }


def _print(*values: Any) -> str:
    """A fingerprint of nested values, arrays and tensors."""
    import torch

    from qsd.support.hashing import array_hash, bytes_hash
    from qsd.support.tensors import tensor_hash

    def described(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return array_hash(value)
        if isinstance(value, torch.Tensor):
            return tensor_hash(value)
        if isinstance(value, dict):
            return {str(key): described(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [described(item) for item in value]
        if hasattr(value, "__dict__") and not isinstance(value, type):
            return [type(value).__name__, described(vars(value))]
        return repr(value)

    return bytes_hash(json.dumps(described(list(values)), sort_keys=True).encode())


def mutate(content: bytes, name: str, rng: np.random.Generator, scratch: Path) -> bytes:
    """One damaged form of a file."""
    choice = rng.random()
    if name.endswith(".json") and choice < 0.6:
        return _mutate_json(content, rng)
    if name.endswith(".safetensors") and choice < 0.3:
        size = int.from_bytes(content[:8], "little")
        header = _mutate_json(content[8 : 8 + size], rng, deep=rng.random() < 0.7)
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    if name.endswith(".h5") and choice < 0.35:
        return _mutate_hdf5(content, rng, scratch)
    return _mutate_bytes(content, rng)


def _mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(data))))
        length = int(rng.integers(1, 65))
        kind = rng.integers(0, 8)
        if kind <= 2 and data:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 3:
            data[at : at + length] = bytes(min(length, len(data) - at))
        elif kind == 4:
            data[at : at + length] = rng.bytes(min(length, len(data) - at))
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at:at] = data[max(0, at - length) : at]
        else:
            data = data[:at] if rng.random() < 0.5 else data + rng.bytes(length)
    return bytes(data)


_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**31, 2**70, -(2**63), 0.5, 1e308, "", "x", "uaq-9", "../../etc/passwd", [], {},
    [[]], [0], {"a": {}}, float("nan"), float("inf"), "é\u2028\x00", 10**9, "0" * 5000,
)  # fmt: skip


def _mutate_json(content: bytes, rng: np.random.Generator, deep: bool = False) -> bytes:
    """Changes entries; ``deep``: of the JSON text that an entry of the description holds."""
    document = json.loads(content)
    if deep and "qsd" in document.get("__metadata__", {}):
        inner = _mutate_json(document["__metadata__"]["qsd"].encode(), rng)
        document["__metadata__"]["qsd"] = inner.decode("utf-8", "surrogateescape")
        return json.dumps(document).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        depth = int(rng.choice([50, 200, 5000, 100_000]))
        return b'{"a":' * depth + b"1" + b"}" * depth if rng.random() < 0.5 else b"[" * depth + b"]" * depth
    for _ in range(int(rng.integers(1, 3))):
        parent, key = _entry(document, rng)
        if parent is None:
            break
        kind = rng.integers(0, 5)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[key + "_"] = parent.pop(key)
        elif kind == 2 and isinstance(parent[key], int | float):
            parent[key] = parent[key] + int(rng.integers(-2, 3))
        elif kind == 3 and isinstance(parent, dict):
            parent[key] = parent[list(parent)[int(rng.integers(0, len(parent)))]]
        else:
            parent[key] = _ODD[int(rng.integers(0, len(_ODD)))]
    return json.dumps(document).encode()


def _entry(document: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    parent, key = None, None
    while isinstance(document, dict | list) and document and (parent is None or rng.random() < 0.8):
        keys = list(document) if isinstance(document, dict) else range(len(document))
        parent, key = document, keys[int(rng.integers(0, len(keys)))]
        document = document[key]
    return parent, key


def _mutate_hdf5(content: bytes, rng: np.random.Generator, scratch: Path) -> bytes:
    import h5py

    scratch.write_bytes(content)
    with h5py.File(scratch, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[int(rng.integers(0, len(names)))]
        values = file[name][()]
        kind = rng.integers(0, 9)
        if kind == 0:
            at = tuple(int(rng.integers(0, size)) for size in values.shape)
            values[at] += 1
            file[name][...] = values
        else:
            del file[name]
            shapes = {1: values[:-1], 2: values[None], 3: values.astype(np.float16), 4: values.astype("i8")}
            if kind in shapes:
                file[name] = shapes[int(kind)]
            elif kind == 5:
                file[name] = (
                    h5py.ExternalLink("other.h5", "/x") if rng.random() < 0.5 else h5py.SoftLink("/meta")
                )
            elif kind == 6:
                huge = (2**30, *values.shape[1:])
                file.create_dataset(
                    name, huge, values.dtype, chunks=(1024, *values.shape[1:]), compression="gzip"
                )
            elif kind == 7:
                file[name] = ["words", "of", "any length"]
        if rng.random() < 0.2:
            key = list(file.attrs)[int(rng.integers(0, len(file.attrs)))]
            file.attrs[key] = rng.choice([-1, 3, 2**40])
    return scratch.read_bytes()


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
        verbose: print the table and the first tracebacks.

    Returns:
        Outcomes by kind, and under ``details`` (kind, outcome, seed, text) of the bad ones.
    """
    details: list[tuple[str, str, int, str]] = []
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = kinds(Path(folder))
        names = chosen or list(made)
        total = sum(made[name].weight for name in names)
        for number, name in enumerate(names):
            share = round(count * made[name].weight / total)
            seeds = [seed * 1_000_003 + number * 100_003 + index for index in range(share)]
            counts, bad = _run_kind(made[name], seeds, Path(folder))
            table[name] = counts
            details += [(name, *entry) for entry in bad]
            if verbose:
                print(_row(name, counts, made[name].hashed), flush=True)
    return {"table": table, "details": details}


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


def _row(name: str, counts: collections.Counter[str], hashed: bool) -> str:
    return f"{name + ('' if hashed else ' *'):<18}" + "".join(
        f"{counts[outcome]:>10}" for outcome in OUTCOMES
    )


def main() -> int:
    """Prints the table and the first details."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="comma-separated; all by default")
    parser.add_argument("--details", type=int, default=5, help="tracebacks to show")
    arguments = parser.parse_args()
    print(f"{'':<18}" + "".join(f"{outcome.split()[0]:>10}" for outcome in OUTCOMES))
    start = time.monotonic()
    found = run(arguments.count, arguments.seed, arguments.kinds.split(",") if arguments.kinds else None)
    total = sum(found["table"].values(), collections.Counter())
    print(_row("all", total, True))
    print(f"{sum(total.values())} inputs in {time.monotonic() - start:.0f} s; * values are not hashed")
    for name, outcome, seed, text in found["details"][: arguments.details]:
        print(f"\n{name}, seed {seed}: {outcome}\n{text}")
    return int(any(total[outcome] for outcome in BAD))


if __name__ == "__main__":
    raise SystemExit(main())
