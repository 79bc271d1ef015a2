"""A store on disk: an HDF5 file and, while records are added, a journal beside it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from qsd.bank.sizes import average_bits, config_bytes
from qsd.denoisers.graph import Graph
from qsd.store import hdf5, journal
from qsd.store.checks import check_content, check_rows
from qsd.store.records import Records, split_of_index
from qsd.store.schema import Header
from qsd.store.user_block import mark_journal
from qsd.support.errors import QsdError, first_line
from qsd.support.files import locked, sync

_NOTHING = Header(
    {}, [], Graph((), np.zeros((2, 0), np.int64)), (), np.zeros((0, 0)), np.zeros((0, 0)), (), {}, {}
)
_ATTEMPTS = 5  # at reading a store that another process is writing


class Store:
    """A store with its header and records in memory.

    Records are added inside a block of :meth:`writing`. They go to a journal beside the file, one durable
    entry each; when the block ends they are folded into the file. Readers merge the journal whenever there is
    one, so whatever instant a writer is killed at, every record that was reported is there.

    Attributes:
        path: the file, as given.
        header: what all records share.
        version: schema version of the file.
        torn: whether a last record was left out because its writer was killed while writing it.
    """

    def __init__(self, path: str | Path, header: Header, records: Records) -> None:
        self.path = Path(path)
        self.header = header
        self.version = hdf5.SCHEMA_VERSION
        self.torn = False
        self._file = self.path.resolve()
        self._root = b""  # of the HDF5 file; empty if it is of an older schema
        self._records = records
        self._added: list[Records] = []
        self._appender: journal.Appender | None = None
        self._is_writer = False

    @property
    def records(self) -> Records:
        """All rows, in the order they were appended."""
        if self._added:
            self._records, self._added = self._records.joined(self._added), []
        return self._records

    @classmethod
    def create(
        cls, path: str | Path, header: Header, records: Records | None = None, *, replace: bool = False
    ) -> Self:
        """Writes a new store, empty or with records.

        Args:
            path: the file.
            header: what all records share.
            records: all rows; None for none.
            replace: take the place of a file, and of its journal, that may be there.

        Raises:
            QsdError: a file of that name exists already, or header and records do not fit together.
        """
        with locked(path, "store") as file:
            if file.exists() and not replace:
                raise QsdError(f"{path} exists already; name another file or remove it")
            _write(file, path, header, records)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, *, drop_damaged: bool = False) -> Self:
        """Reads a store, its journal included.

        Args:
            path: the file.
            drop_damaged: leave out a journal that is missing, and of a damaged one what follows the damage.

        Raises:
            QsdError: the file is missing, truncated, damaged, not a store, of a newer schema, or without the
                journal that belongs to it.
        """
        store = cls(path, _NOTHING, Records.empty(0, 0))
        if store._file.is_dir():
            raise QsdError(f"{path}: a folder, not a store; name the .h5 file")
        if not store._file.is_file():
            raise QsdError(f"{path}: no such store; make one with `qsd label --store {path}`")
        problem = ""
        for _ in range(_ATTEMPTS):
            try:
                problem = store._read(drop_damaged)
            except FileNotFoundError:
                problem = f"{path}: moves while it is read; try again"
            except QsdError:
                raise
            except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
                raise QsdError(
                    f"{path}: truncated or damaged store ({first_line(error)}); restore a copy or label again"
                ) from error
            if not problem:
                return store
        raise QsdError(problem)

    def _read(self, drop_damaged: bool) -> str:
        """Reads file and journal; returns what is wrong if they do not belong together.

        Another process may have folded the journal into the file between the two.
        """
        beside = journal.journal_path(self._file)
        content = hdf5.read(self._file, self.path)
        self.header, self._records, self._root = content.header, content.records, content.root
        self.version = content.version
        if not beside.exists():
            if content.journaled and not drop_damaged:
                return (
                    f"{self.path}: its journal {beside.name} is missing, and with it records; put both side "
                    f"by side, or give the journal up with `qsd store compact {self.path} --drop-damaged`"
                )
            return ""
        root = journal.root_of(beside)
        if root == content.root:
            entries = journal.read(beside, drop_damaged=drop_damaged)
            self.header, self._records = journal.merged(beside, entries, self.header, self._records)
            self.torn = entries.torn
            check_content(self.header, self._records)
        elif root != content.replaced:  # else its records are in the file already
            return (
                f"{self.path}: {beside.name} is the journal of another store; restore its own, or remove it"
            )
        return ""

    @classmethod
    @contextlib.contextmanager
    def writing(
        cls,
        path: str | Path,
        make_header: Callable[[], Header] | None = None,
        *,
        drop_damaged: bool = False,
    ) -> Iterator[Self]:
        """Locks a store, reads it, and yields it for appending; what was added is folded in at the end.

        After an error inside the block the journal stays as it is, and the next writer goes on with it.

        Args:
            path: the file; what it is a symbolic link to is locked and written.
            make_header: called for the header of a new store if there is no file yet.
            drop_damaged: as for :meth:`open`.

        Raises:
            QsdError: another process is writing it, it cannot be written, or as for :meth:`open`.
        """
        with locked(path, "store") as file:
            if make_header is not None and not file.exists():
                _write(file, path, make_header(), None)
            store = cls.open(path, drop_damaged=drop_damaged)
            store._is_writer = True
            store._resume()
            try:
                yield store
                if store._appender is not None or drop_damaged:
                    store._fold()
            finally:
                store._is_writer = False
                store._close_journal()

    def _resume(self) -> None:
        """Goes on with the journal that a killed writer left, if there is one."""
        beside = journal.journal_path(self._file)
        if beside.exists() and journal.root_of(beside) == self._root:
            self._appender = journal.read(beside, drop_damaged=True).appender(beside)
        else:
            beside.unlink(missing_ok=True)  # folded in already

    def _journal(self) -> journal.Appender:
        if not self._is_writer:
            raise RuntimeError("a store is appended to inside `with Store.writing(path) as store`")
        if self._appender is None:
            if not self._root:
                self._fold()  # the file is of an older schema, which knows no journal
            self._appender = journal.create(journal.journal_path(self._file), self._root)
            mark_journal(self._file)
        return self._appender

    def _fold(self) -> None:
        """Writes the file anew, with all that the journal holds, and removes the journal."""
        self._root = hdf5.write(self._file, self.header, self.records, self._root)
        self._close_journal()
        journal.journal_path(self._file).unlink(missing_ok=True)
        sync(self._file.parent)

    def _close_journal(self) -> None:
        if self._appender is not None:
            self._appender.close()
            self._appender = None

    def append(
        self,
        *,
        index: int,
        config: np.ndarray,
        labels: Mapping[str, float],
        noise_seed: int,
        seconds: float,
        num_images: int | None = None,
        activation: np.ndarray | None = None,
    ) -> None:
        """Adds one record durably, in time that does not depend on how many there are.

        Args:
            index: position of the config in the seeded stream (decides its split).
            config: int8 [L].
            labels: value by label name; a name left out is stored as NaN.
            noise_seed: seed of the initial noise of the images.
            seconds: what the record cost.
            num_images: that the labels were measured on; by default those of the store's conditions.
            activation: int8 [L], index into the header's ``activation_options``; by default all 0.

        Raises:
            QsdError: unknown label name, a value that is not finite, or a config that does not fit the
                option table.
        """
        names = self.header.label_names
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise QsdError(f"{self.path}: no label {unknown[0]!r}; the store has {', '.join(names)}")
        num_layers = len(self.header.layers)
        config = np.asarray(config)
        activation = np.zeros(num_layers, np.int8) if activation is None else np.asarray(activation)
        if config.shape != (num_layers,) or activation.shape != (num_layers,):
            raise QsdError(f"{self.path}: config of shape {config.shape} does not fit the option table")
        images = self.header.conditions.get("num_images", 0) if num_images is None else num_images
        row = Records(
            index=np.array([index], np.int64),
            config=config.astype(np.int8)[None],
            activation=activation.astype(np.int8)[None],
            labels=np.array([[labels.get(name, np.nan) for name in names]], np.float64),
            noise_seed=np.array([noise_seed], np.int64),
            split=split_of_index(np.array([index])),
            seconds=np.array([seconds], np.float32),
            num_images=np.array([images], np.int32),
        )
        try:
            check_rows(self.header, row)
        except ValueError as error:
            raise QsdError(
                f"{self.path}: record {index} does not fit the option table or is not finite ({error})"
            ) from error
        self._journal().append(journal.RECORD, journal.pack_record(row))
        self._added.append(row)

    def append_response(self, response: journal.Response) -> None:
        """Adds what the options of one layer do alone, durably, in time that does not depend on the store.

        Raises:
            QsdError: it is of other images or shapes than those of the layers before.
        """
        try:
            header = journal.with_response(self.header, response)
        except ValueError as error:
            raise QsdError(
                f"{self.path}: half probed by another version of qsd ({error}); restart"
            ) from error
        self._journal().append(journal.RESPONSE, journal.pack_response(response))
        self.header = header

    def forget_responses(self) -> None:
        """Gives up what the store knew of options alone, durably."""
        self._journal().append(journal.FORGET, b"")
        self.header = dataclasses.replace(self.header, responses=None)

    def rewrite(self, header: Header, records: Records | None = None) -> None:
        """Replaces what all records share, and the records if some are given, by writing the file anew.

        Raises:
            QsdError: header and records do not fit together.
        """
        if not self._is_writer:
            raise RuntimeError("a store is changed inside `with Store.writing(path) as store`")
        records = self.records if records is None else records
        _check(self.path, header, records)
        self.header, self._records = header, records
        self._fold()

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


def _write(file: Path, path: str | Path, header: Header, records: Records | None) -> None:
    records = Records.empty(len(header.layers), len(header.labels)) if records is None else records
    _check(path, header, records)
    beside = journal.journal_path(file)
    hdf5.write(file, header, records, journal.root_of(beside) if beside.exists() else b"")
    beside.unlink(missing_ok=True)


def _check(path: str | Path, header: Header, records: Records) -> None:
    try:
        check_content(header, records)
    except ValueError as error:
        raise QsdError(f"{path}: cannot be written ({error})") from error
