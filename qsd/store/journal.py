"""The append-only journal beside a store: what was measured since the HDF5 file was last written whole.

A journal is bound to the very content of its HDF5 file, by the file's root hash::

    header   8 bytes "qsdjrnl1", 16 bytes root hash of the HDF5 file, 16 bytes digest of these 24
    entry    1 byte kind, 4 bytes length n of the payload, 4 bytes CRC-32 of these 5; n bytes payload;
             16 bytes digest of the previous digest and all of this entry before

All numbers are little-endian and digests are BLAKE2b of 16 bytes. Each digest covers the one before, so an
entry that is damaged, taken out or moved is noticed. An entry is appended by one write and synced; where a
kill or a power cut tore the last one, it is left out by readers and cut off by the next writer.

Payloads::

    1 record     int64 index, int64 noise_seed, float32 seconds, int32 num_images, float64 labels [M],
                 int8 config [L], int8 activation [L]
    2 response   4 bytes length of a JSON text; it gives layer, columns (positions of the options measured,
                 null for all), num_images, noise_seed, provenance and the spaces' names and shapes [O, d];
                 then their values in that order, float32
    3 forget     empty: the responses known so far are to be measured anew
"""

import dataclasses
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qsd.store.records import Records, split_of_index
from qsd.store.schema import Header, Responses
from qsd.support.errors import QsdError
from qsd.support.files import atomic
from qsd.support.hashing import DIGEST_SIZE

MAGIC = b"qsdjrnl1"
RECORD, RESPONSE, FORGET = 1, 2, 3
_HEADER_SIZE = len(MAGIC) + 2 * DIGEST_SIZE
_HEAD = struct.Struct("<BI")
_CRC = struct.Struct("<I")
_ROW = struct.Struct("<qqfi")
_LENGTH = struct.Struct("<I")


def journal_path(store: Path) -> Path:
    """The journal of a store (both behind symbolic links)."""
    return store.with_name(f"{store.name}.journal")


@dataclasses.dataclass(frozen=True)
class Response:
    """What the options of one layer do alone.

    Attributes:
        layer: position in bank order.
        changes: by space, float32 [O, d].
        num_images: images drawn for each option.
        noise_seed: of these images.
        provenance: of the probing.
        columns: positions of these options among the columns of the store's responses; None for all.
    """

    layer: int
    changes: dict[str, np.ndarray]
    num_images: int
    noise_seed: int
    provenance: dict[str, Any]
    columns: tuple[int, ...] | None = None


class Appender:
    """Appends entries durably. Held by the one writer of a store.

    Args:
        path: of the journal.
        digest: of its last whole entry.
        size: where the next entry begins; what stands behind is a torn entry and is cut off.
    """

    def __init__(self, path: Path, digest: bytes, size: int) -> None:
        self.path = path
        self._digest = digest
        self._size = size
        self._file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)

    def close(self) -> None:
        """Releases the file."""
        os.close(self._file)

    def append(self, kind: int, payload: bytes) -> None:
        """Adds an entry; when this returns, it is on disk.

        Raises:
            QsdError: the disk is full or fails; the journal is as before.
        """
        head = _HEAD.pack(kind, len(payload))
        entry = head + _CRC.pack(zlib.crc32(head)) + payload
        digest = _digest(self._digest, entry)
        rest = memoryview(entry + digest)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise QsdError(
                f"{self.path}: cannot be written ({error.strerror}); all earlier records are safe; make room "
                "and run the same command again"
            ) from error
        self._digest = digest
        self._size += len(entry) + DIGEST_SIZE


def create(path: Path, root: bytes) -> Appender:
    """Starts a journal for the HDF5 file of a root hash."""
    start = MAGIC + root
    digest = _digest(start)
    with atomic(path) as temporary:
        temporary.write_bytes(start + digest)
    return Appender(path, digest, _HEADER_SIZE)


def root_of(path: Path) -> bytes:
    """The root hash of the HDF5 file that a journal belongs to.

    Raises:
        QsdError: the file is no journal or damaged.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_SIZE)
    if len(start) < _HEADER_SIZE or start[: len(MAGIC)] != MAGIC or _digest(start[:24]) != start[24:]:
        raise QsdError(f"{path}: not a journal or damaged; restore a copy of the store and its journal")
    return start[8:24]


@dataclasses.dataclass(frozen=True)
class Journal:
    """A journal as read.

    Attributes:
        entries: (kind, payload) of all whole entries.
        digest: of the last of them.
        size: bytes up to its end.
        torn: whether an incomplete entry follows.
    """

    entries: list[tuple[int, bytes]]
    digest: bytes
    size: int
    torn: bool

    def appender(self, path: Path) -> Appender:
        """Goes on with the journal at ``path``."""
        return Appender(path, self.digest, self.size)


def read(path: Path, *, drop_damaged: bool = False) -> Journal:
    """Reads a journal.

    Args:
        path: of the journal.
        drop_damaged: end before the first damaged entry instead of refusing.

    Raises:
        QsdError: it is damaged elsewhere than in an entry that was being written when its writer was killed.
    """
    root_of(path)
    data = path.read_bytes()
    digest, position = data[24:_HEADER_SIZE], _HEADER_SIZE
    entries: list[tuple[int, bytes]] = []
    while position < len(data):
        body = position + _HEAD.size + _CRC.size
        if body > len(data) or not any(data[position:]):  # cut short, or blocks that never got their content
            break
        head = data[position : position + _HEAD.size]
        if _CRC.unpack(data[position + _HEAD.size : body])[0] != zlib.crc32(head):
            if drop_damaged:
                break
            raise _damaged(path, len(entries))
        kind, length = _HEAD.unpack(head)
        end = body + length + DIGEST_SIZE
        if end > len(data) or (end == len(data) and not any(data[end - DIGEST_SIZE : end])):
            break
        following = _digest(digest, data[position : end - DIGEST_SIZE])
        if following != data[end - DIGEST_SIZE : end]:
            if drop_damaged:
                break
            raise _damaged(path, len(entries))
        entries.append((kind, data[body : body + length]))
        digest, position = following, end
    return Journal(entries, digest, position, position < len(data))


def merged(path: Path, journal: Journal, header: Header, records: Records) -> tuple[Header, Records]:
    """What a store holds, its journal included.

    Raises:
        QsdError: an entry does not fit the store.
    """
    rows = []
    for number, (kind, payload) in enumerate(journal.entries):
        try:
            if kind == RECORD:
                rows.append(unpack_record(payload, header))
            elif kind == RESPONSE:
                header = with_response(header, unpack_response(payload))
            elif kind == FORGET:
                header = dataclasses.replace(header, responses=None)
            else:
                raise ValueError(f"entry of kind {kind}")
        except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            raise QsdError(
                f"{path}: entry {number} does not fit the store ({error}); update qsd, or restore a copy"
            ) from error
    return header, records.joined(rows) if rows else records


def pack_record(row: Records) -> bytes:
    """The payload of one record."""
    fixed = _ROW.pack(row.index[0], row.noise_seed[0], row.seconds[0], row.num_images[0])
    columns = row.labels.astype("<f8"), row.config.astype(np.int8), row.activation.astype(np.int8)
    return fixed + b"".join(column.tobytes() for column in columns)


def unpack_record(payload: bytes, header: Header) -> Records:
    """The inverse of :func:`pack_record`."""
    num_layers, num_labels = len(header.layers), len(header.labels)
    index, noise_seed, seconds, num_images = _ROW.unpack_from(payload)
    labels_end = _ROW.size + 8 * num_labels
    if len(payload) != labels_end + 2 * num_layers:
        raise ValueError(f"a record of {len(payload)} bytes")
    vectors = np.frombuffer(payload, np.int8, offset=labels_end).reshape(2, 1, num_layers)
    return Records(
        index=np.array([index], np.int64),
        config=vectors[0],
        activation=vectors[1],
        labels=np.frombuffer(payload, "<f8", num_labels, _ROW.size).astype(np.float64)[None],
        noise_seed=np.array([noise_seed], np.int64),
        split=split_of_index(np.array([index])),
        seconds=np.array([seconds], np.float32),
        num_images=np.array([num_images], np.int32),
    )


def pack_response(response: Response) -> bytes:
    """The payload of the responses of one layer."""
    facts = dataclasses.asdict(dataclasses.replace(response, changes={}))
    del facts["changes"]
    facts["spaces"] = {name: list(values.shape) for name, values in response.changes.items()}
    text = json.dumps(facts, allow_nan=False).encode()
    values = b"".join(values.astype("<f4").tobytes() for values in response.changes.values())
    return _LENGTH.pack(len(text)) + text + values


def unpack_response(payload: bytes) -> Response:
    """The inverse of :func:`pack_response`."""
    start = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    facts = json.loads(payload[_LENGTH.size : start])
    changes = dict(_arrays(facts.pop("spaces"), payload, start))
    columns = facts.pop("columns", None)
    return Response(changes=changes, columns=None if columns is None else tuple(columns), **facts)


def with_response(header: Header, response: Response) -> Header:
    """The header with the responses of one more layer.

    Raises:
        ValueError: they are of other images or shapes than those of the layers before.
    """
    known = header.responses
    width = len(header.columns)
    columns = np.arange(width) if response.columns is None else np.array(response.columns, np.int64)
    if columns.size and not (columns.min() >= 0 and columns.max() < width):
        raise ValueError("responses of other options")
    if known is None:
        spaces = {
            name: np.full((len(header.layers), width, values.shape[1]), np.nan, np.float32)
            for name, values in response.changes.items()
        }
        known = Responses(spaces, response.num_images, response.noise_seed, sketched=True)
    shapes = {name: (len(columns), values.shape[2]) for name, values in known.spaces.items()}
    if not known.sketched or shapes != {name: values.shape for name, values in response.changes.items()}:
        raise ValueError("responses of other shapes")
    if (known.num_images, known.noise_seed) != (response.num_images, response.noise_seed):
        raise ValueError("responses of other images")
    for name, values in response.changes.items():
        known.spaces[name][response.layer, columns] = values
    provenance = header.provenance | {"probe": response.provenance}
    return dataclasses.replace(header, responses=known, provenance=provenance)


def _arrays(shapes: dict[str, list[int]], payload: bytes, start: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, (options, width) in shapes.items():
        yield name, np.frombuffer(payload, "<f4", options * width, start).reshape(options, width)
        start += 4 * options * width


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _damaged(path: Path, number: int) -> QsdError:
    return QsdError(
        f"{path}: damaged after entry {number}; restore a copy of it, or keep what is before the damage with "
        f"`qsd store compact {path.with_suffix('')} --drop-damaged`"
    )
