"""Damaged forms of files: bits, blocks and cuts; entries of JSON and of headers; datasets of HDF5."""

import json
from pathlib import Path
from typing import Any

import numpy as np


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
