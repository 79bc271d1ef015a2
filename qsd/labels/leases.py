"""Leases on a shared folder: any number of processes share work out among themselves, with no server.

A lease is a file that only one process can create. Its owner touches it while it works and removes it when
the result is on disk. Whoever wants a lease that another holds watches the file: when it was not touched for
the time of expiry by the watcher's own stopwatch, the owner is taken for dead. No clock is compared with
another, so clocks may be hours apart. An owner on the same machine that has ended is found dead at once.

Should a lease be lost (a process that slept through its expiry), work is done twice and nothing else happens:
the results are equal, and merging keeps one.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

from qsd.support.errors import QsdError
from qsd.support.files import is_running, machine

EXPIRY = 120.0
"""Seconds without a sign of life after which a lease is anybody's."""
_TOUCHES = 6  # within the time of expiry
_SKEW = 300.0  # seconds between two clocks that are worth a word

Item = TypeVar("Item")


class _Seen(NamedTuple):
    token: str
    touched: int
    since: float


class Leases:
    """The leases of one process in a folder; a context manager, inside which they are kept alive.

    Args:
        folder: shared by all processes; made if it is not there.
        owner: who asks, for people who look into the folder.
        expiry: seconds; the same for all processes.

    Raises:
        QsdError: the folder cannot be written.
    """

    def __init__(self, folder: Path, owner: str, expiry: float = EXPIRY) -> None:
        self.folder = folder
        self.expiry = expiry
        self._text = json.dumps({"owner": owner, "machine": machine(), "pid": os.getpid()})
        self._held: dict[str, str] = {}
        self._seen: dict[str, _Seen] = {}
        self._ended = threading.Event()
        self._toucher = threading.Thread(target=self._touch_all, daemon=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(folder, error) from error
        if not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK)):
            raise _not_writable(folder, PermissionError(13, "permission denied"))

    def __enter__(self) -> Self:
        self._toucher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._toucher.join()
        for key in list(self._held):
            self.release(key)

    def acquire(self, key: str) -> bool:
        """Takes the lease of a piece of work if nobody holds it; otherwise looks whether its owner lives.

        Raises:
            QsdError: the folder cannot be written.
        """
        path = self._path(key)
        token = secrets.token_hex(8)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return self._is_dead(path, key) and self._remove(path, key) and self.acquire(key)
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        with os.fdopen(file, "w") as opened:
            opened.write(f"{token} {self._text}\n")
        self._held[key] = token
        return True

    def release(self, key: str) -> None:
        """Gives a lease back; one that others took over meanwhile stays theirs."""
        token = self._held.pop(key)
        path = self._path(key)
        if _read(path)[0] == token:
            path.unlink(missing_ok=True)

    def clock_difference(self) -> float:
        """Seconds by which this machine's clock is ahead of that of the folder's machine, for a remark."""
        probe = self.folder / f".clock-{secrets.token_hex(8)}"
        try:
            probe.touch()
            return time.time() - probe.stat().st_mtime
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        finally:
            probe.unlink(missing_ok=True)

    def remark(self) -> str:
        """What to say about the clocks; empty if nothing."""
        ahead = self.clock_difference()
        if abs(ahead) < _SKEW:
            return ""
        way = "ahead of" if ahead > 0 else "behind"
        return (
            f"this machine's clock is {abs(ahead) / 60:.0f} minutes {way} that of {self.folder}; "
            "leases do not depend on it"
        )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.lease"

    def _is_dead(self, path: Path, key: str) -> bool:
        try:
            token, owner = _read(path)
            touched = path.stat().st_mtime_ns
        except OSError:
            return False  # released a moment ago: the next round gets it
        if owner.get("machine") == machine() and not is_running(int(owner.get("pid", 0))):
            self._seen[key] = _Seen(token, touched, -self.expiry)
            return True
        seen = self._seen.get(key)
        if seen is None or (seen.token, seen.touched) != (token, touched):
            self._seen[key] = _Seen(token, touched, time.monotonic())
            return False
        return time.monotonic() - seen.since >= self.expiry

    def _remove(self, path: Path, key: str) -> bool:
        """Takes a dead lease away, unless it is another one by now."""
        aside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            path.rename(aside)
        except OSError:
            return False
        same = _read(aside)[0] == self._seen.pop(key).token
        if not same and not path.exists():
            aside.rename(path)
            return False
        aside.unlink(missing_ok=True)
        return same

    def _touch_all(self) -> None:
        while not self._ended.wait(self.expiry / _TOUCHES):
            for key in list(self._held):
                try:
                    os.utime(self._path(key))
                except OSError:
                    continue  # taken over, or a share that is away for a moment


class Claims(Generic[Item]):
    """Work of which this process takes one piece after another, until all of it is done by somebody.

    A piece is given back when the next one is asked for: by then its result must be on disk.

    Args:
        items: all work; processes that begin at different places meet less often.
        key_of: a file name for each.
        leases: of this process.
        done: the keys of all work that is on disk, looked up anew.
        begin: where in ``items`` to begin.
        pause: seconds between looks at what others hold.
    """

    def __init__(
        self,
        items: Sequence[Item],
        key_of: Callable[[Item], str],
        leases: Leases,
        done: Callable[[], set[str]],
        begin: int = 0,
        pause: float = 1.0,
    ) -> None:
        at = begin % max(len(items), 1)
        self._items = [*items[at:], *items[:at]]
        self._key_of = key_of
        self._leases = leases
        self._done = done
        self._pause = pause

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        waiting = self._items
        while waiting:
            held_by_others: list[Item] = []
            known = self._done()
            for item in waiting:
                key = self._key_of(item)
                if key in known:
                    continue
                if not self._leases.acquire(key):
                    held_by_others.append(item)
                    continue
                try:
                    known = self._done()  # its last owner may have written the result since
                    if key not in known:
                        yield item
                finally:
                    self._leases.release(key)
            waiting = held_by_others
            if waiting:
                time.sleep(self._pause)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Token and owner; empty while they are being written."""
    try:
        token, _, owner = path.read_text().partition(" ")
        document = json.loads(owner)
    except (OSError, ValueError):
        return "", {}
    return (token, document) if isinstance(document, dict) else (token, {})


def _not_writable(folder: Path, error: OSError) -> QsdError:
    reason = (error.strerror or str(error)).lower()
    return QsdError(
        f"{folder}: leases cannot be written there ({reason}); processes of one work share a folder that all "
        "of them may write"
    )
