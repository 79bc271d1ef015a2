"""Keeps what compiled libraries print out of our own output."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_STDOUT = 1


@contextlib.contextmanager
def without_prints() -> Iterator[None]:
    """Drops what is written to the process's standard output below Python inside the block."""
    sys.stdout.flush()
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        _flush()
        os.dup2(nowhere, _STDOUT)
        yield
    finally:
        _flush()  # what C still holds belongs to the block
        os.dup2(kept, _STDOUT)
        os.close(kept)
        os.close(nowhere)


def _flush() -> None:
    """Of all streams of the C library, where it is in reach."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)
