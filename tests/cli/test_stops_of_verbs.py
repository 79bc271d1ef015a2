"""Real verbs that are told to stop in the middle of their work: what is reported stays, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.synthetic_store import synthetic_store

from qsd.api import build_bank
from qsd.denoisers.pipeline import load_pipeline
from qsd.store import Store

pytestmark = pytest.mark.slow
PIPELINE = "checkpoints/digits-dit"
LINE = "qsd: stopped; run the same command again to go on"


def _stopped(words: list[str], begun: Callable[[], bool], signum: signal.Signals) -> subprocess.Popen[str]:
    """Starts a verb, sends it a signal once it has begun, and waits for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qsd.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=_as_in_a_terminal,
    )
    for _ in range(1800):
        if begun() or process.poll() is not None:
            break
        time.sleep(0.1)
    children = _children(process.pid)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 128 + signum, errors
    assert [line for line in errors.splitlines() if line.startswith("qsd:")] == [LINE]
    assert "Traceback" not in errors
    for _ in range(100):
        left = [pid for pid in children if Path(f"/proc/{pid}/cmdline").exists()]
        left = [pid for pid in left if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if not left:
            return process
        time.sleep(0.1)
    raise AssertionError(f"children {left} go on")


def _as_in_a_terminal() -> None:
    for signum in (signal.SIGINT, signal.SIGHUP):  # ignored where the tests run in the background
        signal.signal(signum, signal.SIG_DFL)


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def test_label_with_workers(tmp_path: Path) -> None:
    bank, path = tmp_path / "bank.safetensors", tmp_path / "store.h5"
    build_bank(load_pipeline(PIPELINE), ["uaq-3", "uaq-4"]).save(bank)
    words = ["label", "--pipeline", PIPELINE, "--bank", str(bank), "--store", str(path), "--workers", "2"]
    words += ["--evaluation.prompts", "datasets/digits/class_prompts.txt", "--evaluation.num_images", "4"]
    words += ["--evaluation.steps", "2", "--evaluation.guidance", "1.0"]
    journal = tmp_path / "store.h5.journal"
    empty = 40  # bytes of its header
    _stopped(
        [*words, "--num-configs", "100000"],
        lambda: journal.exists() and journal.stat().st_size > empty,
        signal.SIGTERM,
    )
    assert {file.name for file in tmp_path.iterdir()} <= {bank.name, path.name, journal.name, "store.h5.lock"}
    records = Store.open(path).records
    assert len(records) >= 1
    assert len(set(records.index.tolist())) == len(records)


def test_fit(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store.h5", 60, 1, probed=True).path
    words = ["fit", f"--data.stores=[{store}]", "--data.target=-log(fid)", "--data.folds=2"]
    words += ["--trainer.max_epochs=100000", "--trainer.logger=false", f"--out={tmp_path / 'ranker'}"]
    words += [f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.enable_progress_bar=false"]
    checkpoints = tmp_path / "run"
    _stopped(words, lambda: any(checkpoints.rglob("*.ckpt")), signal.SIGINT)
    assert not (tmp_path / "ranker").exists()
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith(".tmp")]
