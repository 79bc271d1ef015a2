"""Files are written whole or not at all."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from qsd.support.errors import QsdError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file beside ``path`` that replaces it when the block ends without an error.

    The content is synced to disk before the rename and the folder after it, so that a kill or a power cut
    leaves the old file or the new one, never half of either. What a symbolic link points to is replaced, not
    the link. The new file has the old one's permissions, or those that the umask grants.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's entries, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: str | Path, what: str) -> Iterator[Path]:
    """Holds a file, which need not exist yet, for one writer. Yields the path behind symbolic links.

    Args:
        path: the file; the lock is ``path.lock`` beside it.
        what: for the message, such as "store".

    Raises:
        QsdError: another process holds it, or the file or its folder cannot be written.
    """
    resolved = Path(path).resolve()
    if resolved.exists() and not (resolved.stat().st_mode & 0o222 and os.access(resolved, os.W_OK)):
        raise QsdError(f"{path}: this {what} is read-only; make it writable (chmod u+w) or copy it")
    resolved.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{resolved}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise QsdError(
            f"{path}: another process is writing this {what}; wait until it ends or stop it"
        ) from None
    try:
        yield resolved
    finally:
        lock.release()


def _umask() -> int:
    """The process's umask; reading it means to set it, so it is read once, before there are threads."""
    return _UMASK


_UMASK = os.umask(0o077)
os.umask(_UMASK)
