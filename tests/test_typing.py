"""What a user's type checker knows of the public names, which are loaded when they are first used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

USER = """\
import qsd

bank = qsd.build_bank(qsd.load_pipeline("folder"), options=["uaq-4"])
front = qsd.search(qsd.load_ranker("ranker"), bank, max_bits=3.5)
reveal_type(bank)
reveal_type(front)
reveal_type(front.best())
reveal_type(qsd.export(None, bank, front.best(), "out"))
qsd.search(None, bank, max_bits="small")
"""
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "lightning",
    "torch_geometric",
    "torchmetrics",
    "numba",
    "scipy",
)


@pytest.mark.slow
def test_public_names_are_typed(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in HEAVY)  # they take minutes
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\n{skipped}")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "user.py"]
    path = str(Path(__file__).parents[1])
    checked = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": path}, capture_output=True, text=True
    )
    revealed = [line for line in checked.stdout.splitlines() if "Revealed type" in line]
    expected = ("qsd.bank.bank.Bank", "qsd.search.front.Front", "ndarray", "ExportResult")
    assert len(revealed) == 4, checked.stdout + checked.stderr
    for line, name in zip(revealed, expected, strict=True):
        assert name in line
    assert 'user.py:9: error: Argument "max_bits"' in checked.stdout
