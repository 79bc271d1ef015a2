"""Content hashes: in every file, checked by every reader, so that damage is never taken for data."""

import contextlib
import contextvars
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIGEST_SIZE = 16
"""Bytes of a hash: BLAKE2b with a digest of 128 bits, written as 32 hexadecimal digits."""

_BLOCK = 1 << 22
_verifying = contextvars.ContextVar("verifying", default=True)


def bytes_hash(*parts: bytes | memoryview) -> str:
    """The hash of bytes, part after part."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def array_hash(array: np.ndarray) -> str:
    """The hash of an array: of its dtype, shape and little-endian values in row-major order."""
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return bytes_hash(f"{little.dtype.str}{array.shape}".encode(), little.reshape(-1).view(np.uint8).data)


def json_hash(document: Any) -> str:
    """The hash of a JSON value, whatever the order of its keys and its white space."""
    return bytes_hash(
        json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    )


def file_hash(path: Path, start: int = 0) -> str:
    """The hash of a file's bytes from a place on, read in blocks.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def verification(check: bool) -> Iterator[None]:
    """Readers inside the block check content hashes, or take files as they are."""
    token = _verifying.set(check)
    try:
        yield
    finally:
        _verifying.reset(token)


def verifying() -> bool:
    """Whether readers check content hashes."""
    return _verifying.get()
