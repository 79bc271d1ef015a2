"""The journal: merged by every reader, torn where its writer was killed, refused where it is damaged."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.synthetic_store import synthetic_header, synthetic_responses, synthetic_store

from qsd.store import Response, Store
from qsd.store.journal import journal_path
from qsd.support.errors import QsdError


class KilledError(Exception):
    """Ends a block of writing before its records are folded in."""


def _append(store: Store, index: int) -> None:
    config = np.full(len(store.header.layers), index % len(store.header.options), np.int8)
    store.append(index=index, config=config, labels={"fid": index / 7}, noise_seed=index % 2, seconds=0.5)


def _killed_after(path: Path, *indices: int) -> Path:
    """A store whose writer ended right after these records. Returns its journal."""
    with pytest.raises(KilledError), Store.writing(path) as store:
        for index in indices:
            _append(store, index)
        raise KilledError
    return journal_path(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return synthetic_store(tmp_path / "s.h5", num_records=5, num_blocks=1).path


def _indices(path: Path) -> list[int]:
    return Store.open(path).records.index.tolist()


def test_readers_merge_the_journal_and_the_next_writer_folds_it_in(path: Path) -> None:
    journal = _killed_after(path, 5, 6)
    with_journal = Store.open(path)
    assert with_journal.records.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert not with_journal.torn
    assert journal == _killed_after(path, 7)
    with Store.writing(path) as store:
        assert len(store.records) == 8
    assert not journal.exists()
    folded = Store.open(path)
    for name, column in vars(with_journal.records).items():
        np.testing.assert_array_equal(getattr(folded.records, name)[:7], column)
        assert getattr(folded.records, name).dtype == column.dtype
    assert folded.values("fid")[5:].tolist() == [5 / 7, 6 / 7, 7 / 7]


def test_a_record_costs_its_own_bytes(path: Path) -> None:
    before = path.read_bytes()
    first, *rest = (_killed_after(path, index).stat().st_size for index in (5, 6, 7))
    num_layers, num_labels = len(Store.open(path).header.layers), 2
    assert {b - a for a, b in zip([first, *rest], rest, strict=False)} == {
        24 + 8 * num_labels + 2 * num_layers + 25
    }
    assert path.read_bytes()[512:] == before[512:]


def test_cut_anywhere_the_journal_keeps_all_whole_records(path: Path) -> None:
    journal = _killed_after(path, 5, 6)
    content = journal.read_bytes()
    size = (len(content) - 40) // 2
    for cut in range(40, len(content)):
        journal.write_bytes(content[:cut])
        store = Store.open(path)
        whole = (cut - 40) // size
        assert store.records.index.tolist() == [0, 1, 2, 3, 4, 5, 6][: 5 + whole]
        assert store.torn == bool((cut - 40) % size)
    _killed_after(path, 9)  # cuts the torn entry off
    assert _indices(path) == [0, 1, 2, 3, 4, 5, 9]


def test_blocks_that_a_power_cut_left_empty_are_a_torn_end(path: Path) -> None:
    journal = _killed_after(path, 5, 6)
    content = journal.read_bytes()
    for written in (len(content) - 16, len(content) - 40):
        journal.write_bytes(content[:written].ljust(len(content), b"\0"))
        assert _indices(path) == [0, 1, 2, 3, 4, 5]


def test_any_changed_byte_is_noticed(path: Path) -> None:
    journal = _killed_after(path, 5, 6, 7)
    content = bytearray(journal.read_bytes())
    for position in range(len(content)):
        content[position] ^= 1 << position % 8
        journal.write_bytes(content)
        content[position] ^= 1 << position % 8
        with pytest.raises(QsdError, match="journal"):
            Store.open(path)
    journal.write_bytes(content)
    assert len(_indices(path)) == 8


def test_entries_taken_out_or_moved_are_noticed(path: Path) -> None:
    journal = _killed_after(path, 5, 6, 7)
    content = journal.read_bytes()
    size = (len(content) - 40) // 3
    head, first, second, third = (
        content[:40],
        *(content[40 + i * size : 40 + (i + 1) * size] for i in range(3)),
    )
    for entries in ((second, third), (first, third), (first, third, second), (first, first, second, third)):
        journal.write_bytes(head + b"".join(entries))
        with pytest.raises(QsdError, match="damaged after entry"):
            Store.open(path)


def test_damage_can_be_given_up_on_purpose(path: Path) -> None:
    journal = _killed_after(path, 5, 6, 7)
    content = bytearray(journal.read_bytes())
    content[-20] ^= 1
    journal.write_bytes(content)
    with pytest.raises(QsdError, match="--drop-damaged"):
        Store.open(path)
    with Store.writing(path, drop_damaged=True):
        pass
    assert _indices(path) == [0, 1, 2, 3, 4, 5, 6]
    assert not journal.exists()


def test_a_store_without_its_journal_is_refused(path: Path, tmp_path: Path) -> None:
    _killed_after(path, 5)
    copy = tmp_path / "copy.h5"
    shutil.copy(path, copy)
    with pytest.raises(QsdError, match=r"copy\.h5: its journal copy\.h5\.journal is missing"):
        Store.open(copy)
    with Store.writing(copy, drop_damaged=True):
        pass
    assert _indices(copy) == [0, 1, 2, 3, 4]
    shutil.copy(path, copy)
    shutil.copy(journal_path(path), journal_path(copy))
    assert _indices(copy) == [0, 1, 2, 3, 4, 5]


def test_the_journal_of_another_store_is_refused(path: Path, tmp_path: Path) -> None:
    other = synthetic_store(tmp_path / "other.h5", num_records=4, num_blocks=1).path
    shutil.copy(_killed_after(other, 9), journal_path(path))
    with pytest.raises(QsdError, match=r"s\.h5\.journal is the journal of another store"):
        Store.open(path)


def test_killed_between_folding_and_removing_the_journal(path: Path) -> None:
    journal = _killed_after(path, 5, 6)
    leftover = journal.read_bytes()
    with Store.writing(path):
        pass
    journal.write_bytes(leftover)
    assert _indices(path) == [0, 1, 2, 3, 4, 5, 6]
    _killed_after(path, 7)
    assert _indices(path) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_responses_are_added_layer_by_layer_and_forgotten(tmp_path: Path) -> None:
    header = synthetic_header(num_blocks=1)
    truth = synthetic_responses(header)
    path = Store.create(tmp_path / "s.h5", header).path

    def response(layer: int, images: int = 4) -> Response:
        changes = {name: values[layer].astype(np.float32) for name, values in truth.spaces.items()}
        return Response(layer, changes, images, 0, {"versions": {"qsd": "0"}})

    with pytest.raises(KilledError), Store.writing(path) as store:
        for layer in (3, 1):
            store.append_response(response(layer))
        with pytest.raises(QsdError, match="half probed by another version"):
            store.append_response(response(2, images=5))
        raise KilledError
    again = Store.open(path).header
    assert again.responses.missing().tolist() == [0, *range(2, len(header.layers))][:1] + [
        layer for layer in range(2, len(header.layers)) if layer != 3
    ]
    for name, values in truth.spaces.items():
        np.testing.assert_array_equal(again.responses.spaces[name][[1, 3]], values[[1, 3]].astype(np.float32))
    assert again.provenance["probe"] == {"versions": {"qsd": "0"}}
    with Store.writing(path) as store:
        for layer in again.responses.missing().tolist():
            store.append_response(response(layer))
        store.rewrite(dataclasses.replace(store.header, responses=store.header.responses))
    assert not len(Store.open(path).header.responses.missing())
    with pytest.raises(KilledError), Store.writing(path) as store:
        store.forget_responses()
        raise KilledError
    assert Store.open(path).header.responses is None


def test_appending_needs_the_lock(path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"inside `with Store\.writing"):
        _append(Store.open(path), 5)
