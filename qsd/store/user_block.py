"""The 512 bytes before the HDF5 content of a store: what it is, whether a journal was begun, and a hash."""

from pathlib import Path
from typing import NamedTuple

from qsd.support.files import sync
from qsd.support.hashing import DIGEST_SIZE, file_hash

SIZE = 512
"""Bytes; HDF5 calls them its user block and leaves them alone."""

_PREFIX = b"qsd store\n"
_COMPLETE, _JOURNALED = b"complete\n", b"+journal\n"


class UserBlock(NamedTuple):
    """What the block says.

    Attributes:
        journaled: whether a journal was begun for the file.
        is_untouched: whether the HDF5 content has the hash that was noted when qsd wrote it. It has not where
            somebody keeps data of his own in the file, where it is damaged, and in files of version 0.1.0.
    """

    journaled: bool
    is_untouched: bool


def read_block(path: Path) -> UserBlock | None:
    """The block of a file; None where there is none, as in stores of schema version 1.

    Raises:
        ValueError: it is damaged.
    """
    with path.open("rb") as file:
        block = file.read(SIZE)
    if not block.startswith(_PREFIX):
        return None
    state, noted = block[len(_PREFIX) :][: len(_COMPLETE)], block[len(_PREFIX) + len(_COMPLETE) :]
    digits, end = noted[: 2 * DIGEST_SIZE], noted[2 * DIGEST_SIZE :]
    if state not in (_COMPLETE, _JOURNALED) or end.strip(b"\0"):
        raise ValueError("its first 512 bytes are not those of a store")
    return UserBlock(state == _JOURNALED, digits == file_hash(path, SIZE).encode("ascii"))


def write_block(path: Path) -> None:
    """Writes the block of a file whose HDF5 content is complete."""
    noted = file_hash(path, SIZE).encode("ascii")
    with path.open("r+b") as file:
        file.write((_PREFIX + _COMPLETE + noted).ljust(SIZE, b"\0"))


def mark_journal(path: Path) -> None:
    """Notes in a file that a journal belongs to it from now on, by one write.

    A copy of the file without its journal is then known to be incomplete.
    """
    with path.open("r+b", buffering=0) as file:
        file.seek(len(_PREFIX))
        file.write(_JOURNALED)
    sync(path)
