"""Stores whose bytes nobody vouches for are read by another process first."""

import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from support.synthetic_store import synthetic_store

from qsd.store import Store, hdf5, surveying
from qsd.store.user_block import SIZE, read_block
from qsd.support.errors import QsdError
from qsd.support.hashing import verification


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return synthetic_store(tmp_path / "s.h5", num_records=5, num_blocks=1).path


def _other_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(code)
    monkeypatch.setattr(surveying, "__file__", str(script))


def test_what_qsd_wrote_is_read_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "survey", lambda path: pytest.fail("surveyed"))
    assert len(Store.open(path).records) == 5


def test_ones_own_data_is_surveyed_and_kept(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["mine"] = [1, 2, 3]
    block = read_block(path)
    assert block is not None and not block.is_untouched
    assert len(Store.open(path).records) == 5
    surveying.survey(path)


def test_no_end_and_a_crash_are_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path, "r+") as file:
        file["mine"] = [1, 2, 3]
    monkeypatch.setattr(surveying, "_SECONDS", 0.5)
    _other_script(monkeypatch, tmp_path, "import time; time.sleep(60)")
    with pytest.raises(QsdError, match=r"s\.h5: truncated or damaged store \(HDF5's library did not come"):
        Store.open(path)
    monkeypatch.setattr(surveying, "_SECONDS", 20.0)
    _other_script(monkeypatch, tmp_path, f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(QsdError, match=r"HDF5's library crashed on it, signal 9\); restore a copy"):
        Store.open(path)
    with verification(False):
        assert len(Store.open(path).records) == 5


def test_the_script_reads_a_store_and_refuses_other_files(path: Path) -> None:
    words = [sys.executable, "-P", surveying.__file__]
    assert subprocess.run([*words, str(path)], check=False).returncode == 0
    path.write_bytes(b"no store" * 100)
    assert subprocess.run([*words, str(path)], check=False, stderr=subprocess.DEVNULL).returncode == 1


def test_a_damaged_block_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[SIZE - 1] = 1
    path.write_bytes(content)
    with pytest.raises(QsdError, match="its first 512 bytes are not those of a store"):
        Store.open(path)
