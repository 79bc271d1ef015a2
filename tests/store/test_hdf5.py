"""The HDF5 file of a store: old schemas, links, permissions, what users keep in it, and damage."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.synthetic_store import as_schema_1, synthetic_header, synthetic_store

from qsd.store import Records, Store
from qsd.support.errors import QsdError
from qsd.support.hashing import verification
from qsd.support.paths import find


def _append(path: Path, index: int) -> None:
    with Store.writing(path) as store:
        config = np.zeros(len(store.header.layers), np.int8)
        store.append(index=index, config=config, labels={}, noise_seed=0, seconds=0.0)


def test_the_first_schema_is_read_and_written_as_the_second(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=6, probed=True).path
    before = Store.open(path)
    as_schema_1(path)
    old = Store.open(path)
    assert not old.records.activation.any()
    assert old.header.activation_options == ("16",)
    for name, column in vars(before.records).items():
        np.testing.assert_array_equal(getattr(old.records, name), column)
    for name, values in before.header.responses.spaces.items():
        np.testing.assert_array_equal(old.header.responses.spaces[name], values)
    _append(path, 6)
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == 2
    new = Store.open(path)
    assert new.records.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    for name, values in before.header.responses.spaces.items():
        np.testing.assert_array_equal(new.header.responses.spaces[name], values)


def test_shipped_stores_open() -> None:
    records = Store.open(find("datasets/digits-dit.h5")).records
    assert len(records) >= 500
    assert set(records.num_images.tolist()) == {200}


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = synthetic_store(tmp_path / "real" / "s.h5", num_records=3).path
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    _append(link, 3)
    assert link.is_symlink()
    assert Store.open(path).records.index.tolist() == [0, 1, 2, 3]
    assert {file.name for file in tmp_path.iterdir()} == {"real", "link.h5"}
    with Store.writing(path), pytest.raises(QsdError, match="another process is writing"):
        _append(link, 4)


def test_a_read_only_store_is_refused(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=3).path
    path.chmod(0o444)
    with pytest.raises(QsdError, match=r"s\.h5: this store is read-only"):
        _append(path, 3)
    assert len(Store.open(path).records) == 3


def test_permissions_are_kept_and_follow_the_umask(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=3).path
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    _append(path, 3)
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_a_user_keeps_in_the_file_survives(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=3).path
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "for the paper"
        file["records"].attrs["who"] = "me"
        file["records/config"].attrs["unit"] = "option"
        file["mine/deep/values"] = np.arange(5)
        file["mine"].attrs["x"] = 1.5
        file["records/my_column"] = np.ones(3)
        file["words"] = ["a", "bc"]
        file["soft"] = h5py.SoftLink("/mine/deep/values")
        file["elsewhere"] = h5py.ExternalLink("absent.h5", "/x")
    _append(path, 3)
    _append(path, 4)
    with h5py.File(path) as file:
        assert file.attrs["note"] == "for the paper"
        assert file["records"].attrs["who"] == "me"
        assert file["records/config"].attrs["unit"] == "option"
        assert file["mine/deep/values"][()].tolist() == [0, 1, 2, 3, 4]
        assert file["mine"].attrs["x"] == 1.5
        assert file["records/my_column"][()].tolist() == [1, 1, 1]
        assert file["words"].asstr()[()].tolist() == ["a", "bc"]
        assert file.get("soft", getlink=True).path == "/mine/deep/values"
        assert file.get("elsewhere", getlink=True).filename == "absent.h5"
    assert len(Store.open(path).records) == 5


def _replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


def _external_link(file: h5py.File) -> None:
    del file["records/seconds"]
    file["records/seconds"] = h5py.ExternalLink("other.h5", "/x")


def _external_group(file: h5py.File) -> None:
    file.move("records", "moved")
    file["records"] = h5py.SoftLink("/moved")


def _external_storage(file: h5py.File) -> None:
    del file["records/seconds"]
    file.create_dataset("records/seconds", (3,), "f4", external=[("/etc/hostname", 0, 12)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    del file["records/seconds"]
    file.create_virtual_dataset("records/seconds", layout)


def _objects(file: h5py.File) -> None:
    del file["records/seconds"]
    file["records/seconds"] = ["1", "2", "3"]


def _huge(file: h5py.File) -> None:
    del file["records/labels"]
    file.create_dataset("records/labels", (2**28, 2), "f8", chunks=(2**16, 2), compression="gzip")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda file: _replace(file, "records/seconds", np.full(3, 7, np.float32)),
            "seconds differs from its",
        ),
        (lambda file: _replace(file, "records/seconds", np.zeros(4, np.float32)), "differs from its hash"),
        (lambda file: _replace(file, "meta", np.zeros(8, np.uint8)), "meta differs from its hash"),
        (_external_link, "missing or a link"),
        (_external_group, "missing or a link"),
        (_external_storage, "keeps its values in other files"),
        (_virtual, "keeps its values in other files"),
        (_objects, "is object of 1 dimensions instead of float32"),
        (_huge, "claim 4294"),
        (lambda file: file.__delitem__("records"), "missing or a link"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path, spoil, message: str) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=3).path
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(QsdError, match=rf"s\.h5: truncated or damaged store .*{message}"):
        Store.open(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("config", 6, "names options that are not in the table"),
        ("config", -1, "names options that are not in the table"),
        ("activation", 1, "activation names options"),
        ("labels", np.inf, "labels is not finite"),
        ("seconds", -1.0, "seconds is negative"),
        ("split", 2, "split contradicts"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, column: str, value: float, message: str) -> None:
    store = synthetic_store(tmp_path / "s.h5", num_records=3)
    columns = {name: values.copy() for name, values in vars(store.records).items()}
    columns[column][0] = value
    with pytest.raises(QsdError, match=message):
        Store.create(tmp_path / "bad.h5", store.header, Records(**columns))


def test_records_twice_are_refused(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "s.h5", num_records=3)
    with pytest.raises(QsdError, match="holds one measurement twice"):
        Store.create(tmp_path / "twice.h5", store.header, store.records.joined([store.records]))


def test_an_option_that_a_layer_lacks_is_refused(tmp_path: Path) -> None:
    header = synthetic_header()
    num_bytes, error = header.num_bytes.copy(), header.relative_error.copy()
    num_bytes[2, 1], error[2, 1] = -1, np.nan
    header = dataclasses.replace(header, num_bytes=num_bytes, relative_error=error)
    assert header.available.sum() == num_bytes.size - 1
    path = Store.create(tmp_path / "s.h5", header).path
    config = np.ones(len(header.layers), np.int8)
    with Store.writing(path) as store:
        with pytest.raises(QsdError, match="an option that its layer cannot take"):
            store.append(index=0, config=config, labels={}, noise_seed=0, seconds=0.0)
        config[2] = 0
        store.append(index=0, config=config, labels={}, noise_seed=0, seconds=0.0)
    np.testing.assert_array_equal(Store.open(path).header.available, header.available)


def test_the_impatient_skip_the_hashes(tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "s.h5", num_records=3).path
    with h5py.File(path, "r+") as file:
        _replace(file, "records/seconds", np.full(3, 7, np.float32))
    with verification(False):
        assert Store.open(path).records.seconds.tolist() == [7, 7, 7]
