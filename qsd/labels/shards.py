"""Shards: every process labels into a store of its own, and `qsd store merge` puts them together."""

import contextlib
import dataclasses
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from qsd.labels.labeling import measured
from qsd.labels.leases import EXPIRY, Claims, Leases
from qsd.labels.measurer import Job
from qsd.labels.probing import Cells
from qsd.store import Store
from qsd.store.journal import journal_path
from qsd.store.merging import differing_part
from qsd.support.errors import QsdError
from qsd.support.files import HeldError, machine

_RANKS = {
    "array": ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID"),
    "task": ("SLURM_PROCID",),
    "index": ("JOB_COMPLETION_INDEX",),
    "rank": ("RANK",),
}
_MOST_PROCESSES = 10_000

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which of several processes this one is.

    Attributes:
        name: of its store.
        share: (i, n): it labels every n-th config, from the i-th, and needs no leases; None: it takes what
            nobody holds.
        fixed: whether it must have that name; otherwise it takes the next one that is free.
        expiry: of leases, seconds.
    """

    name: str
    share: tuple[int, int] | None = None
    fixed: bool = True
    expiry: float = EXPIRY

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Self:
        """Reads ``3/8``, a name, or ``auto``.

        Args:
            text: as on the command line.
            environment: where ``auto`` finds what SLURM, an indexed Job or torchrun call this process.

        Raises:
            QsdError: it is none of these.
        """
        share = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if share is not None:
            number, count = map(int, share.groups())
            if not 1 <= number <= count:
                raise QsdError(f"shard {text}: shards are numbered from 1/{max(count, 1)} on")
            return cls(f"{number}-of-{count}", (number, count))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text):
            raise QsdError(f"shard {text!r}: give I/N, auto, or a name of letters, digits, - and _")
        if text != "auto":
            return cls(text)
        for kind, names in _RANKS.items():
            if names[0] in environment:
                ranks = [environment[name] for name in names if name in environment]
                return cls("-".join([kind, *(re.sub(r"\W", "_", rank) for rank in ranks)]), fixed=False)
        return cls(f"host-{machine()}", fixed=False)

    def names(self) -> Iterator[str]:
        """Names to try."""
        yield self.name
        if not self.fixed:
            yield from (f"{self.name}.{number}" for number in range(2, _MOST_PROCESSES))


def shards_folder(store: str | Path) -> Path:
    """Where the shards of a store lie."""
    return Path(f"{store}.shards")


class Shards:
    """All shards of a store, as one of their processes sees them; a context manager.

    Args:
        store: the store that the shards shall become; it need not exist.
        shard: this process.
    """

    def __init__(self, store: str | Path, shard: Shard) -> None:
        self.whole = Path(store)
        self.folder = shards_folder(store)
        self.shard = shard
        self._leases = Leases(self.folder, shard.name, shard.expiry)
        self._read: dict[Path, tuple[tuple[int, ...], Store]] = {}
        self._own: Store | None = None

    def __enter__(self) -> Self:
        self._leases.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._leases.__exit__(*error)

    @contextlib.contextmanager
    def opened(self, begin: Callable[[Path], contextlib.AbstractContextManager[Store]]) -> Iterator[Store]:
        """Holds the store of this process.

        Args:
            begin: holds a store by its path (:func:`qsd.labels.open_or_create`).

        Raises:
            QsdError: another process has the name, or a shard in the folder is of other work.
        """
        with contextlib.ExitStack() as stack:
            for name in self.shard.names():
                try:
                    self._own = stack.enter_context(begin(self.folder / f"{name}.h5"))
                    break
                except HeldError:
                    if self.shard.fixed:
                        raise
            if self._own is None:
                raise QsdError(f"{self.folder}: {_MOST_PROCESSES} processes are at work; start fewer")
            try:
                self._refresh(strict=True)
            except QsdError:
                own = self._own
                if not len(own.records) and own.header.responses is None:
                    stack.callback(own.path.unlink, missing_ok=True)  # it would be in the way of others
                raise
            if remark := self._leases.remark():
                logging.getLogger(__name__).warning("%s", remark)
            yield self._own

    def stores(self) -> list[Store]:
        """The stores of all processes, and the whole one if it is there, as they are on disk now."""
        self._refresh(strict=False)
        return [*(store for _, store in self._read.values()), *([self._own] if self._own else [])]

    def jobs(self, jobs: Sequence[Job], num_images: int | None = None) -> Sequence[Job] | Claims[Job]:
        """Of the jobs, those of this process: its share of what nobody did, or all that it can take.

        Args:
            jobs: all that is to be measured.
            num_images: as for :func:`qsd.labels.labeling.jobs_of_stream`.
        """

        def done() -> set[str]:
            return {_key(*key, num_images) for store in self.stores() for key in measured(store, num_images)}

        def key_of(job: Job) -> str:
            return _key(job.index, job.noise_seed, num_images)

        known = done()
        left = [job for job in jobs if key_of(job) not in known]
        if self.shard.share is not None:
            number, count = self.shard.share
            return [job for job in left if job.index % count == number - 1]
        return self._claims(left, key_of, done)

    def layers(self, layers: Sequence[Cells]) -> Sequence[Cells] | Claims[Cells]:
        """The same of layers to probe."""
        done = self._probed()
        left = [cells for cells in layers if f"layer-{cells.layer}" not in done]
        if self.shard.share is not None:
            number, count = self.shard.share
            return [cells for cells in left if cells.layer % count == number - 1]
        return self._claims(left, lambda cells: f"layer-{cells.layer}", self._probed)

    def _claims(
        self, items: Sequence[Item], key_of: Callable[[Item], str], done: Callable[[], set[str]]
    ) -> Claims[Item]:
        begin = zlib.crc32(str(self._own and self._own.path).encode())
        return Claims(items, key_of, self._leases, done, begin)

    def _probed(self) -> set[str]:
        known: set[str] = set()
        for store in self.stores():
            if (responses := store.header.responses) is not None:
                known |= {f"layer-{i}" for i in np.flatnonzero(~responses.unknown().any(axis=1))}
        return known

    def _refresh(self, strict: bool) -> None:
        """Reads again what has changed on disk.

        A file that cannot be read for a moment while its owner writes it stays as it was read before.
        """
        assert self._own is not None, "inside of opened()"
        for path in [*sorted(self.folder.glob("*.h5")), self.whole]:
            if path.name == self._own.path.name and path.parent == self.folder:
                continue
            state = _state(path)
            if not state or (path in self._read and self._read[path][0] == state):
                continue
            try:
                store = Store.open(path)
            except QsdError:
                if strict:
                    raise
                continue
            part = differing_part(self._own.header, store.header)
            if part is not None:
                raise QsdError(
                    f"{path}: a shard of other work, it differs from {self._own.path.name} in {part}; name "
                    "another --store, or move it away"
                )
            self._read[path] = state, store


def stores_with_shards(store: str | Path) -> list[Store]:
    """What there is of a store: itself, and its shards."""
    return [Store.open(path) for path in (Path(store), *shards_folder(store).glob("*.h5")) if path.exists()]


def shard_files(path: str | Path) -> list[Path]:
    """The stores in a folder of shards; a file is its own.

    Raises:
        QsdError: the folder holds none.
    """
    if not Path(path).is_dir():
        return [Path(path)]
    found = sorted(Path(path).glob("*.h5"))
    if not found:
        raise QsdError(f"{path}: holds no stores (*.h5); name the folder of a store's shards")
    return found


def _key(index: int, noise_seed: int, num_images: int | None) -> str:
    return f"config-{index}-{noise_seed}" + ("" if num_images is None else f"-{num_images}")


def _state(path: Path) -> tuple[int, ...]:
    """Changes whenever the store does; empty if there is none."""
    facts: list[int] = []
    for file in (path, journal_path(path)):
        with contextlib.suppress(OSError):
            stat = file.stat()
            facts += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return tuple(facts) if path.exists() else ()
