"""The HDF5 file of a store, read and written whole.

Layout (schema version 2)::

    512 bytes before the HDF5 content: see :mod:`qsd.store.user_block`
    /                 attrs: format, schema_version, root_hash (of the bytes of /meta)
    /meta             uint8 [bytes], UTF-8 JSON: denoiser identity, layers, graph nodes, options, activation
                      options, labels, conditions, provenance; facts of the responses; content hashes of all
                      datasets below; root hash of the file that this one replaced
    /graph/edge_index int64 [2, E]
    /options/num_bytes       int64   [L, O]   exact bytes of every option of every layer, -1: not available
    /options/relative_error  float64 [L, O]   ||W - W_q|| / ||W||
    /options/num_weights     int64   [L]
    /options/responses/*     float32 [L, O, d]  where `qsd probe` measured them (see :class:`Responses`)
    /options/bases/SPACE.*   int8 [d, n, e], float32 [d, n], float32 [n]  (see :class:`Basis`)
    /records/*               the columns of :class:`qsd.store.records.Records`

What else a user keeps in the file, groups, datasets and attributes, is carried over whenever it is written.

Schema version 1 has no hashes, no journal, no ``activation`` and ``num_images``, and keeps the facts of the
responses in attributes. It is read as it is, and written as version 2.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsd.denoisers.graph import Graph
from qsd.quantizers.options import Option, paper_form
from qsd.store import user_block
from qsd.store.checks import check_content, checked_dataset, checked_file
from qsd.store.records import Records
from qsd.store.schema import Basis, Header, Meta, Responses
from qsd.store.surveying import survey
from qsd.support.documents import check_schema, parse_json
from qsd.support.errors import QsdError
from qsd.support.files import atomic
from qsd.support.hashing import array_hash, bytes_hash, verifying

FORMAT = "qsd-store"
SCHEMA_VERSION = 2
_RESPONSES = "options/responses"
_BASES = "options/bases"
_BASIS_PARTS = {"directions": (np.int8, 3), "scale": (np.float32, 2), "unit": (np.float32, 1)}


@dataclasses.dataclass(frozen=True)
class Content:
    """All that an HDF5 file of a store holds.

    Attributes:
        header: what all records share.
        records: all rows.
        version: schema version of the file.
        root: root hash, 16 bytes; of a file of version 1 empty.
        replaced: root hash of the file whose place it took, if there was one.
        journaled: whether a journal was begun for it.
    """

    header: Header
    records: Records
    version: int
    root: bytes
    replaced: bytes
    journaled: bool


def read(path: Path, shown: str | Path) -> Content:
    """Reads and checks a file.

    Args:
        path: behind symbolic links.
        shown: its name in messages.

    Raises:
        QsdError: it is truncated, damaged, no store, or of a newer schema.
    """
    block = user_block.read_block(path)
    if verifying() and (block is None or not block.is_untouched):
        survey(path)
    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise QsdError(f"{shown}: an HDF5 file, but not a qsd store; make one with `qsd label`")
        version = int(file.attrs["schema_version"])
        if version not in (1, SCHEMA_VERSION):
            raise QsdError(f"{shown}: schema version {version}, this qsd reads {SCHEMA_VERSION}; update qsd")
        checked_file(file, path)
        text = checked_dataset(file, "meta", np.uint8, 1).tobytes()
        if version == 2 and verifying() and bytes_hash(text) != file.attrs["root_hash"]:
            raise ValueError("/meta differs from its hash")
        meta = check_schema(Meta, parse_json(text, shown), f"{shown}: /meta")
        header = _header(file, meta)
        records = _records(file, header, meta.hashes, version)
        if version == 2 and block is None:
            raise ValueError("its first 512 bytes are not those of a store")
    check_content(header, records)
    return Content(
        header=header,
        records=records,
        version=version,
        root=bytes.fromhex(bytes_hash(text)) if version == 2 else b"",
        replaced=bytes.fromhex(meta.replaced),
        journaled=block is not None and block.journaled,
    )


def write(path: Path, header: Header, records: Records, replaced: bytes = b"") -> bytes:
    """Writes a file whole or not at all, in place of the one that is there.

    Args:
        path: behind symbolic links.
        header: what all records share.
        records: all rows.
        replaced: root hash of the file that is there.

    Returns:
        The root hash.
    """
    datasets = {
        "graph/edge_index": header.graph.edge_index.astype(np.int64),
        "options/num_bytes": header.num_bytes.astype(np.int64),
        "options/relative_error": header.relative_error.astype(np.float64),
        "options/num_weights": header.num_weights,
        **{f"records/{field.name}": getattr(records, field.name) for field in dataclasses.fields(Records)},
    }
    if header.responses is not None:
        for name, values in header.responses.spaces.items():
            datasets[f"{_RESPONSES}/{name}"] = values.astype(np.float32)
        for name, basis in header.responses.bases.items():
            for part, (dtype, _) in _BASIS_PARTS.items():
                datasets[f"{_BASES}/{name}.{part}"] = getattr(basis, part).astype(dtype)
    meta = _meta(header) | {
        "hashes": {name: array_hash(values) for name, values in datasets.items()},
        "replaced": replaced.hex(),
    }
    text = json.dumps(meta, sort_keys=True).encode()
    datasets["meta"] = np.frombuffer(text, np.uint8)
    with atomic(path) as temporary:
        with h5py.File(temporary, "w", userblock_size=user_block.SIZE) as file:
            for name, values in datasets.items():
                file.create_dataset(name, data=values, compression="gzip" if values.size else None)
            if path.exists():
                with h5py.File(path, "r") as old:
                    _carry_over(old, file)
            file.attrs["format"] = FORMAT
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["root_hash"] = bytes_hash(text)
        user_block.write_block(temporary)
    return bytes.fromhex(bytes_hash(text))


def _meta(header: Header) -> dict[str, Any]:
    responses = header.responses
    return {
        "denoiser": header.denoiser,
        "layers": [layer.to_json() for layer in header.layers],
        "nodes": header.graph.to_json(),
        "options": [str(option) for option in header.options],
        "activation_options": list(header.activation_options),
        "labels": [dataclasses.asdict(label) for label in header.labels],
        "conditions": header.conditions,
        "provenance": header.provenance,
        "responses": responses
        and {
            "num_images": responses.num_images,
            "noise_seed": responses.noise_seed,
            "sketched": responses.sketched,
        },
    }


def _header(file: h5py.File, meta: Meta) -> Header:
    hashes = meta.hashes
    spell = str if hashes else paper_form  # schema 1 knew the paper's forms only, under their plain names
    edges = checked_dataset(file, "graph/edge_index", np.int64, 2, hashes)
    num_weights = checked_dataset(file, "options/num_weights", np.int64, 1, hashes)
    if num_weights.tolist() != [layer.num_weights for layer in meta.layers]:
        raise ValueError("/options/num_weights contradicts the shapes of layers")
    return Header(
        denoiser=meta.denoiser,
        layers=meta.layers,
        graph=Graph.from_json([dataclasses.asdict(node) for node in meta.nodes], edges),
        options=tuple(Option.parse(spell(text)) for text in meta.options),
        num_bytes=checked_dataset(file, "options/num_bytes", np.int64, 2, hashes),
        relative_error=checked_dataset(file, "options/relative_error", np.float64, 2, hashes),
        labels=tuple(meta.labels),
        conditions=meta.conditions,
        provenance=meta.provenance,
        responses=_responses(file, meta),
        activation_options=meta.activation_options,
    )


def _responses(file: h5py.File, meta: Meta) -> Responses | None:
    prefix, facts = f"{_RESPONSES}/", meta.responses
    names = [key.removeprefix(prefix) for key in meta.hashes if key.startswith(prefix)]
    if facts is not None:
        spaces = {name: checked_dataset(file, prefix + name, np.float32, 3, meta.hashes) for name in names}
        return Responses(spaces, facts.num_images, facts.noise_seed, facts.sketched, _bases(file, meta))
    if meta.hashes or _RESPONSES not in file:
        return None
    group = file[_RESPONSES]  # of version 1
    spaces = {name: checked_dataset(file, prefix + name, np.float32, 3) for name in group}
    old = Responses(spaces, int(group.attrs["num_images"]), int(group.attrs["noise_seed"]))
    return dataclasses.replace(old, sketched=bool(len(old.missing())))


def _bases(file: h5py.File, meta: Meta) -> dict[str, Basis]:
    suffix = ".directions"
    names = [
        key.removeprefix(f"{_BASES}/").removesuffix(suffix)
        for key in meta.hashes
        if key.startswith(f"{_BASES}/") and key.endswith(suffix)
    ]
    return {
        name: Basis(
            **{
                part: checked_dataset(file, f"{_BASES}/{name}.{part}", *kind, meta.hashes)
                for part, kind in _BASIS_PARTS.items()
            }
        )
        for name in names
    }


def _records(file: h5py.File, header: Header, hashes: dict[str, str], version: int) -> Records:
    empty = Records.empty(len(header.layers), len(header.labels))
    columns = {}
    for field in dataclasses.fields(Records):
        like = getattr(empty, field.name)
        if version == 1 and field.name in ("activation", "num_images"):
            continue
        columns[field.name] = checked_dataset(file, f"records/{field.name}", like.dtype, like.ndim, hashes)
    if version == 1:
        images = int(header.conditions.get("num_images", 0))
        columns["activation"] = np.zeros_like(columns["config"])
        columns["num_images"] = np.full(len(columns["index"]), images, np.int32)
    return Records(**columns)


def _carry_over(old: h5py.Group, new: h5py.Group) -> None:
    """Copies what ``old`` has and ``new`` lacks: attributes, and items as they are, links unfollowed."""
    for name, value in old.attrs.items():
        if name not in new.attrs:
            new.attrs[name] = value
    if not isinstance(old, h5py.Group):
        return
    for name in old:
        if f"{old.name}/{name}" == f"/{_BASES}":
            continue  # of responses that may be forgotten by now
        link = old.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            if name not in new:
                new[name] = link
        elif name not in new:
            old.copy(name, new, name, expand_soft=False, expand_external=False)
        else:
            _carry_over(old[name], new[name])
