"""The store: what is written is read back, whatever is killed or damaged."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_store import synthetic_header, synthetic_store

from qsd.store import SPLITS, Store, split_of_index
from qsd.support.errors import QsdError


def _append(store: Store, index: int, fid: float = 10.0) -> None:
    config = np.full(len(store.header.layers), index % len(store.header.options), np.int8)
    store.append(index=index, config=config, labels={"fid": fid}, noise_seed=0, seconds=1.5)


def test_header_and_records_survive_the_disk(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "s.h5", num_records=30)
    again = Store.open(store.path)
    assert again.header.graph == store.header.graph
    assert again.header.layers == store.header.layers
    assert again.header.options == store.header.options
    assert again.header.labels == store.header.labels
    np.testing.assert_array_equal(again.header.num_bytes, store.header.num_bytes)
    np.testing.assert_array_equal(again.records.config, store.records.config)
    np.testing.assert_array_equal(again.values("fid"), store.values("fid"))


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10**6), st.floats(allow_nan=False, allow_infinity=False, width=32)),
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_appended_rows_come_back_in_order(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store.create(tmp_path_factory.mktemp("s") / "s.h5", synthetic_header())
    with Store.writing(store.path) as writer:
        for index, fid in rows:
            _append(writer, index, fid)
    again = Store.open(store.path)
    assert again.records.index.tolist() == [index for index, _ in rows]
    np.testing.assert_array_equal(again.values("fid"), [fid for _, fid in rows])
    assert np.isnan(again.values("clip")).all()
    assert {path.name for path in store.path.parent.iterdir()} == {"s.h5", "s.h5.lock"}


def test_sizes_are_sums_of_option_bytes(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "s.h5", num_records=7)
    header = store.header
    for row, config in enumerate(store.records.config):
        expected = sum(int(header.num_bytes[layer, option]) for layer, option in enumerate(config))
        assert store.values("bytes")[row] == expected
        assert store.values("avg_bits")[row] == pytest.approx(8 * expected / header.num_weights.sum())


def test_split_is_fixed_by_position_and_balanced() -> None:
    split = split_of_index(np.arange(2000))
    shares = np.bincount(split, minlength=3) / len(split)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2])
    for start in range(0, 2000, 20):
        assert np.bincount(split[start : start + 20], minlength=3).tolist() == [14, 2, 4]
    assert [SPLITS[int(split_of_index(i))] for i in (3, 4)] == [SPLITS[int(split[3])], SPLITS[int(split[4])]]


def _append_forever(path: Path) -> None:
    with Store.writing(path) as store:
        while True:
            _append(store, len(store.records))


def test_killed_while_appending_leaves_a_complete_store(tmp_path: Path) -> None:
    path = Store.create(tmp_path / "s.h5", synthetic_header()).path
    seen = 0
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=_append_forever, args=(path,))
        process.start()
        time.sleep(0.5)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        records = Store.open(path).records
        assert records.index.tolist() == list(range(len(records)))
        assert len(records) > seen
        seen = len(records)


def test_only_one_writer(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.h5", synthetic_header())
    with (
        Store.writing(store.path),
        pytest.raises(QsdError, match=r"s\.h5: another process is writing"),
        Store.writing(store.path),
    ):
        pass


def test_a_writer_reads_under_its_lock_what_others_wrote_since_it_opened(tmp_path: Path) -> None:
    config = np.zeros(len(synthetic_header().layers), np.int8)

    def append(*indices: int) -> None:
        with Store.writing(tmp_path / "s.h5") as store:
            for index in indices:
                store.append(index=index, config=config, labels={}, noise_seed=0, seconds=0.0)

    Store.create(tmp_path / "s.h5", synthetic_header())
    append(0, 1)
    opened = Store.open(tmp_path / "s.h5")
    append(*range(2, 20))
    assert len(opened.records) == 2
    append(20)
    assert Store.open(tmp_path / "s.h5").records.index.tolist() == list(range(21))


def test_truncated_store_is_named(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=30).path
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:size])
        with pytest.raises(QsdError, match=r"s\.h5: truncated or damaged"):
            Store.open(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    with pytest.raises(QsdError, match=r"other\.h5: an HDF5 file, but not a qsd store"):
        Store.open(other)
    with pytest.raises(QsdError, match="no such store"):
        Store.open(tmp_path / "absent.h5")
    newer = Store.create(tmp_path / "newer.h5", synthetic_header()).path
    with h5py.File(newer, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(QsdError, match="schema version 99"):
        Store.open(newer)


def test_mistakes_in_a_record_change_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.h5", synthetic_header())
    num_layers = len(store.header.layers)
    good = {"index": 0, "noise_seed": 0, "seconds": 0.0}
    fits = np.zeros(num_layers, np.int8)
    with Store.writing(store.path) as writer:
        with pytest.raises(QsdError, match="no label 'nonsense'"):
            writer.append(config=fits, labels={"nonsense": 1.0}, **good)
        with pytest.raises(QsdError, match="does not fit the option table"):
            writer.append(config=np.full(num_layers, 6, np.int8), labels={}, **good)
        with pytest.raises(QsdError, match="not finite"):
            writer.append(config=fits, labels={"fid": np.inf}, **good)
    with pytest.raises(QsdError, match="no label 'nonsense'"):
        store.values("nonsense")
    with pytest.raises(QsdError, match="exists already"):
        Store.create(store.path, synthetic_header())
    assert len(Store.open(store.path).records) == 0


def test_no_object_dtypes(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=3).path
    kinds = set()
    with h5py.File(path) as file:
        file.visititems(
            lambda _, item: kinds.add(item.dtype.kind) if isinstance(item, h5py.Dataset) else None
        )
    assert kinds <= {"i", "u", "f"}
