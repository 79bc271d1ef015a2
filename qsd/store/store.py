"""The HDF5 store: one graph, one option table, many (config, labels) records.

Layout of a store file (schema version 1)::

    /                 attrs: format, schema_version
    /meta             uint8 [bytes], UTF-8 JSON: denoiser identity, layers, graph nodes, options, labels,
                      conditions, provenance
    /graph/edge_index int64 [2, E]
    /options/num_bytes       int64   [L, O]   exact bytes of every option of every layer
    /options/relative_error  float64 [L, O]   ||W - W_q|| / ||W||
    /options/num_weights     int64   [L]
    /options/responses/*     float32 [L, O, d]  where `qsd probe` measured them (see :class:`Responses`)
    /records/index      int64   [R]     position in the seeded stream of random configs
    /records/config     int8    [R, L]  option index per layer, bank order
    /records/labels     float64 [R, M]  NaN where a label is missing
    /records/noise_seed int64   [R]
    /records/split      int8    [R]     0 train, 1 validation, 2 test
    /records/seconds    float32 [R]

A file is never changed in place: every append writes a new file beside it, syncs it and renames it over
the old one, so a process killed at any instant leaves the last complete store behind.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from filelock import FileLock, Timeout

from qsd.bank.sizes import average_bits, config_bytes
from qsd.denoisers.graph import Graph
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option, options_hash
from qsd.support.errors import QsdError, first_line
from qsd.support.files import atomic

FORMAT = "qsd-store"
SCHEMA_VERSION = 1
SPLITS = ("train", "validation", "test")
_RESPONSES = "options/responses"
_SPLIT_OF_INDEX = np.array([0] * 14 + [1] * 2 + [2] * 4, dtype=np.int8)


def split_of_index(index: int | np.ndarray) -> np.ndarray:
    """The split of the record at ``index`` of the config stream: 70 % train, 10 % validation, 20 % test.

    Configs are independent draws, so a fixed pattern over their positions is a random split that stays
    the same however far the store grows. The pattern is permuted per block of 20 to look like nothing
    that the sampler could correlate with.
    """
    index = np.asarray(index, dtype=np.int64)
    return _SPLIT_OF_INDEX[(index * 7 + index // 20) % 20]


@dataclasses.dataclass(frozen=True)
class Label:
    """A measured number: its name, whether larger is better, and its meaning in a few words."""

    name: str
    larger_is_better: bool
    description: str


@dataclasses.dataclass(frozen=True)
class Responses:
    """What each option does to the drawn images while all other layers are at full precision.

    Attributes:
        spaces: by ``latents``, ``features`` and ``mean_features`` (of the images), float32 [L, O, d]:
            coordinates of the change. Squared lengths are its mean square (per latent element; per image,
            summed over features), where every image counts as much as any other over all options; angles are
            those between changes. NaN for layers that are still to be measured; until all are, the first two
            spaces have sketches of each image in place of coordinates.
        num_images: images drawn for each.
        noise_seed: of these images.
    """

    spaces: dict[str, np.ndarray]
    num_images: int
    noise_seed: int

    def missing(self) -> np.ndarray:
        """Positions of the layers that are still to be measured."""
        return np.flatnonzero(np.isnan(next(iter(self.spaces.values()))).any(axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class Header:
    """All that the records of a store share. L layers, O options, M labels.

    Attributes:
        denoiser: identity of the denoiser (see :func:`qsd.denoisers.pipeline.identity`).
        layers: weight layers in bank order.
        graph: the traced graph, whose weight nodes point into ``layers``.
        options: the option table.
        num_bytes: int64 [L, O].
        relative_error: float64 [L, O].
        labels: what the columns of the label matrix mean.
        conditions: settings every record was measured under (images, steps, prompts, features, ...).
        provenance: versions, seed and command.
        responses: what each option does alone, if it was measured.
    """

    denoiser: dict[str, Any]
    layers: list[WeightLayer]
    graph: Graph
    options: tuple[Option, ...]
    num_bytes: np.ndarray
    relative_error: np.ndarray
    labels: tuple[Label, ...]
    conditions: dict[str, Any]
    provenance: dict[str, Any]
    responses: Responses | None = None

    @property
    def num_weights(self) -> np.ndarray:
        """Weights per layer, int64 [L]."""
        return np.array([layer.num_weights for layer in self.layers], dtype=np.int64)

    @property
    def options_hash(self) -> str:
        """Short stable hash of the option table."""
        return options_hash(self.options)

    @property
    def label_names(self) -> list[str]:
        """Column names of the label matrix."""
        return [label.name for label in self.labels]


@dataclasses.dataclass(frozen=True)
class Records:
    """The rows of a store as aligned arrays (see the module's layout for shapes and dtypes)."""

    index: np.ndarray
    config: np.ndarray
    labels: np.ndarray
    noise_seed: np.ndarray
    split: np.ndarray
    seconds: np.ndarray

    @classmethod
    def empty(cls, num_layers: int, num_labels: int) -> Self:
        """No rows, with the right widths."""
        return cls(
            index=np.zeros(0, np.int64),
            config=np.zeros((0, num_layers), np.int8),
            labels=np.zeros((0, num_labels), np.float64),
            noise_seed=np.zeros(0, np.int64),
            split=np.zeros(0, np.int8),
            seconds=np.zeros(0, np.float32),
        )

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: np.ndarray) -> Self:
        """The rows at positions or under a mask."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def of_split(self, name: str) -> Self:
        """The rows of ``train``, ``validation`` or ``test``."""
        return self.select(self.split == SPLITS.index(name))

    def extended(self, **row: Any) -> Self:
        """These rows and one more, given as keyword arguments named like the fields."""
        columns = {}
        for field in dataclasses.fields(self):
            column = getattr(self, field.name)
            columns[field.name] = np.concatenate([column, np.asarray(row[field.name], column.dtype)[None]])
        return type(self)(**columns)


class Store:
    """An HDF5 store on disk with its header and records in memory.

    Attributes:
        path: the file.
        header: what all records share.
        records: all rows, in the order they were appended.
    """

    def __init__(self, path: Path, header: Header, records: Records) -> None:
        self.path = path
        self.header = header
        self.records = records

    @classmethod
    def create(cls, path: str | Path, header: Header) -> Self:
        """Writes an empty store.

        Raises:
            QsdError: a file of that name exists already.
        """
        path = Path(path)
        if path.exists():
            raise QsdError(f"{path} exists already; name another file or remove it")
        store = cls(path, header, Records.empty(len(header.layers), len(header.labels)))
        store._write()
        return store

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Reads a store.

        Raises:
            QsdError: the file is missing, truncated, not a store, or of a newer schema.
        """
        path = Path(path)
        if not path.is_file():
            raise QsdError(f"{path}: no such store; make one with `qsd label --store {path}`")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise QsdError(f"{path}: an HDF5 file, but not a qsd store; make one with `qsd label`")
                version = int(file.attrs["schema_version"])
                if version != SCHEMA_VERSION:
                    raise QsdError(
                        f"{path}: schema version {version}, this qsd reads {SCHEMA_VERSION}; update qsd"
                    )
                header = _read_header(file)
                records = Records(
                    **{f.name: file["records"][f.name][()] for f in dataclasses.fields(Records)}
                )
        except QsdError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise QsdError(
                f"{path}: truncated or damaged store ({first_line(error)}); restore a copy or label again"
            ) from error
        return cls(path, header, records)

    def append(
        self, *, index: int, config: np.ndarray, labels: Mapping[str, float], noise_seed: int, seconds: float
    ) -> None:
        """Adds one record durably.

        Args:
            index: position of the config in the seeded stream (decides its split).
            config: int8 [L].
            labels: value by label name; a name left out is stored as NaN.
            noise_seed: seed of the initial noise of the images.
            seconds: what the record cost.

        Raises:
            QsdError: unknown label name, or a config that does not fit the option table.
        """
        names = self.header.label_names
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise QsdError(f"{self.path}: no label {unknown[0]!r}; the store has {', '.join(names)}")
        config = np.asarray(config)
        if (
            config.shape != (len(self.header.layers),)
            or not ((config >= 0) & (config < len(self.header.options))).all()
        ):
            raise QsdError(f"{self.path}: config of shape {config.shape} does not fit the option table")
        self.records = self.records.extended(
            index=index,
            config=config,
            labels=[labels.get(name, np.nan) for name in names],
            noise_seed=noise_seed,
            split=split_of_index(index),
            seconds=seconds,
        )
        self._write()

    def set_responses(self, responses: Responses, provenance: dict[str, Any]) -> None:
        """Writes what each option does alone, in place of what the store knew of it.

        Args:
            responses: of the layers measured so far.
            provenance: of the responses; the store's own gets it as ``probe``.
        """
        facts = self.header.provenance | {"probe": provenance}
        self.header = dataclasses.replace(self.header, responses=responses, provenance=facts)
        self._write()

    def values(self, name: str) -> np.ndarray:
        """One quantity of all records, float64 [R]: a label, ``avg_bits`` or ``bytes``.

        Raises:
            QsdError: the store has no such quantity.
        """
        if name == "bytes":
            return self.total_bytes().astype(np.float64)
        if name == "avg_bits":
            return average_bits(self.total_bytes(), self.header.num_weights)
        names = self.header.label_names
        if name not in names:
            raise QsdError(
                f"{self.path}: no label {name!r}; the store has {', '.join([*names, 'avg_bits', 'bytes'])}"
            )
        return self.records.labels[:, names.index(name)]

    def total_bytes(self) -> np.ndarray:
        """Exact bytes of the quantized weights of each record, int64 [R]."""
        return config_bytes(self.records.config, self.header.num_bytes)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the store for one writer.

        Raises:
            QsdError: another process is writing it.
        """
        try:
            with FileLock(f"{self.path}.lock", timeout=0):
                yield
        except Timeout:
            raise QsdError(
                f"{self.path}: another process is labeling into it; wait for it or stop it"
            ) from None

    def _write(self) -> None:
        with atomic(self.path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["schema_version"] = SCHEMA_VERSION
            _write_header(file, self.header)
            for field in dataclasses.fields(Records):
                column = getattr(self.records, field.name)
                file.create_dataset(
                    f"records/{field.name}", data=column, compression="gzip" if len(column) else None
                )


def _write_header(file: h5py.File, header: Header) -> None:
    nodes, edge_index = header.graph.to_json(), header.graph.edge_index
    meta = {
        "denoiser": header.denoiser,
        "layers": [layer.to_json() for layer in header.layers],
        "nodes": nodes,
        "options": [str(option) for option in header.options],
        "labels": [dataclasses.asdict(label) for label in header.labels],
        "conditions": header.conditions,
        "provenance": header.provenance,
    }
    text = json.dumps(meta, sort_keys=True).encode()
    file.create_dataset("meta", data=np.frombuffer(text, np.uint8), compression="gzip")
    file.create_dataset("graph/edge_index", data=edge_index, compression="gzip")
    file.create_dataset("options/num_bytes", data=header.num_bytes.astype(np.int64))
    file.create_dataset("options/relative_error", data=header.relative_error.astype(np.float64))
    file.create_dataset("options/num_weights", data=header.num_weights)
    if header.responses is not None:
        group = file.create_group(_RESPONSES)
        group.attrs.update(num_images=header.responses.num_images, noise_seed=header.responses.noise_seed)
        for name, values in header.responses.spaces.items():
            group.create_dataset(name, data=values.astype(np.float32), compression="gzip")


def _read_responses(file: h5py.File) -> Responses | None:
    if _RESPONSES not in file:
        return None
    group = file[_RESPONSES]
    return Responses(
        {name: values[()] for name, values in group.items()},
        int(group.attrs["num_images"]),
        int(group.attrs["noise_seed"]),
    )


def _read_header(file: h5py.File) -> Header:
    meta = json.loads(file["meta"][()].tobytes())
    return Header(
        denoiser=meta["denoiser"],
        layers=[WeightLayer.from_json(layer) for layer in meta["layers"]],
        graph=Graph.from_json(meta["nodes"], file["graph/edge_index"][()]),
        options=tuple(Option.parse(text) for text in meta["options"]),
        num_bytes=file["options/num_bytes"][()],
        relative_error=file["options/relative_error"][()],
        labels=tuple(Label(**label) for label in meta["labels"]),
        conditions=meta["conditions"],
        provenance=meta["provenance"],
        responses=_read_responses(file),
    )
