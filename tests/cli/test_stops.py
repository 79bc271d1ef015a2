"""Stopping: one line, an exit code that says why, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "sleeper.py"


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _worker(folder: Path) -> int:
    for _ in range(600):
        time.sleep(0.1)
        if (folder / "worker.txt").exists() and (text := (folder / "worker.txt").read_text()):
            return int(text)
    raise AssertionError("the worker did not start")


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_everything_with_one_line(tmp_path: Path, signum: signal.Signals) -> None:
    process = _start(tmp_path)
    worker = _worker(tmp_path)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 128 + signum
    assert errors == "qsd: stopped; run the same command again to go on\n"
    assert _is_gone(worker)
    assert [file.name for file in tmp_path.iterdir()] == ["worker.txt"]


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = _start(tmp_path)
    worker = _worker(tmp_path)
    process.kill()
    process.communicate(timeout=180)
    assert _is_gone(worker)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    process = _start(tmp_path, "full")
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 2
    assert errors == "qsd: no space left on device; make room and run the same command again\n"
    assert not list(tmp_path.iterdir())


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    process = _start(tmp_path)
    os.kill(_worker(tmp_path), signal.SIGKILL)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 2
    assert errors.startswith("qsd: a worker process was killed")
    assert errors.count("\n") == 1
