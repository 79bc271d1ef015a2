"""Results of several files: a folder that takes the place of an older one in one step."""

import contextlib
import ctypes
import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from qsd.support.errors import QsdError
from qsd.support.files import is_alive, plain_mode, sync, temporary_name

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def replacing(out: str | Path, is_ours: Callable[[str], bool] | None = None) -> Iterator[Path]:
    """Yields a new folder that takes the place of ``out`` when the block ends without an error.

    The two are exchanged in one step where the system can do that, so whatever instant the process is killed
    at, ``out`` is the old result or the new one. Leftovers of killed processes are removed, and an old result
    that one had moved away is put back.

    Args:
        out: the folder; what it is a symbolic link to is replaced.
        is_ours: whether an entry of that name is part of the old result and goes with it; what else stands in
            the folder is carried over. None: nothing is carried over.

    Raises:
        QsdError: ``out`` is a file.
    """
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise QsdError(f"{out}: is a file; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    restore(out)
    temporary = temporary_name(out)
    temporary.mkdir(mode=0o777)
    try:
        yield temporary
        if is_ours is not None and out.is_dir():
            _carry_over(out, temporary, is_ours)
        _settle(temporary)
        if not out.exists():
            temporary.rename(out)
        elif not _exchange(temporary, out):
            earlier = temporary.with_name(f"{temporary.name}.old")
            out.rename(earlier)
            temporary.rename(out)
            temporary = earlier
        sync(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore(out: str | Path) -> None:
    """Removes what killed processes left beside a folder, and puts its content back if one had moved it."""
    out = Path(out).resolve()
    for left in sorted(out.parent.glob(f".{glob.escape(out.name)}.*.tmp*")):
        if left.is_dir() and not is_alive(left):
            if left.suffix == ".old" and not out.exists():
                left.rename(out)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _carry_over(old: Path, new: Path, is_ours: Callable[[str], bool]) -> None:
    for entry in old.iterdir():
        if is_ours(entry.name) or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(entry, new / entry.name)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _settle(folder: Path) -> None:
    """Gives new files the permissions that the umask grants, and makes everything durable."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        if path.is_file() and path.stat().st_nlink == 1:
            path.chmod(plain_mode())
        sync(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))
