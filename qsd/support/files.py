"""Files are written whole or not at all."""

import contextlib
import functools
import glob
import hashlib
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from qsd.support.errors import QsdError


class HeldError(QsdError):
    """Another process holds the file."""


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file beside ``path`` that replaces it when the block ends without an error.

    The content is synced to disk before the rename and the folder after it, so that a kill or a power cut
    leaves the old file or the new one, never half of either. What a symbolic link points to is replaced, not
    the link. The new file has the old one's permissions, or those that the umask grants.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = temporary_name(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield temporary
        temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else plain_mode())
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that nobody can guess and that tells which process made it."""
    return path.with_name(f".{path.name}.{machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")


def sweep(path: Path) -> None:
    """Removes temporary files that killed processes left beside ``path``."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if left.is_file() and not is_alive(left):
            left.unlink(missing_ok=True)


def is_alive(temporary: Path) -> bool:
    """Whether the process that made a temporary file or folder may still be at work on it."""
    made_by = re.fullmatch(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.tmp(\.old)?", temporary.name)
    if made_by is None or made_by[1] != machine():
        return True  # not ours to judge
    return is_running(int(made_by[2]))


def is_running(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def plain_mode() -> int:
    """The permissions of a new file under the process's umask."""
    return 0o666 & ~_UMASK


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
        HeldError: another process holds it.
        QsdError: the file or its folder cannot be written.
    """
    resolved = Path(path).resolve()
    if resolved.exists() and not (resolved.stat().st_mode & 0o222 and os.access(resolved, os.W_OK)):
        raise QsdError(f"{path}: this {what} is read-only; make it writable (chmod u+w) or copy it")
    resolved.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{resolved}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeldError(
            f"{path}: another process is writing this {what}; wait until it ends or stop it"
        ) from None
    try:
        yield resolved
    finally:
        lock.release()


@functools.cache
def machine() -> str:
    """Eight digits that name the machine, its boot and the space of process numbers."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=4).hexdigest()


_UMASK = os.umask(0o077)  # it can only be read by setting it: done once, before there are threads
os.umask(_UMASK)
