"""Programs in processes of their own, which cannot import qsd."""

import subprocess
import sys
from pathlib import Path

_BEFORE = "import sys\nsys.modules['qsd'] = None\n"


def apart(code: str, *words: str | Path) -> str:
    """What a program prints that cannot import qsd."""
    run = subprocess.run(
        [sys.executable, "-c", _BEFORE + code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
