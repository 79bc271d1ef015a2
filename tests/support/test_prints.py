"""What C code prints is dropped, what Python prints is not."""

import subprocess
import sys

import numpy as np

from qsd.search.methods.orthogonality import solve_program

CODE = """
import ctypes, os
from qsd.support.prints import without_prints
libc = ctypes.CDLL(None)
print("before")
libc.puts(b"before, by C")
with without_prints():
    libc.puts(b"dropped")
    os.write(1, b"dropped")
libc.puts(b"after, by C")
libc.fflush(None)
print("after")
"""

SOLVING = """
import numpy as np
from qsd.search.methods.orthogonality import solve_program
rng = np.random.default_rng(108)
sizes = rng.integers(50, 400, size=(40, 1)) * np.arange(2, 8) + rng.integers(0, 30, (40, 6))
values = rng.random((40, 1)) * np.log(np.arange(2, 8))
print(solve_program(values, sizes, int(sizes.min(axis=1).sum() * 1.4)).tolist())
"""


def _printed(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout


def test_only_what_c_prints_inside_is_dropped() -> None:
    lines = _printed(CODE).splitlines()
    assert sorted(lines) == sorted(["before", "before, by C", "after, by C", "after"])


def test_a_solver_that_prints_leaves_the_answer_alone() -> None:
    """The program of seed 108 makes the solver of scipy 1.17 print a line."""
    (line,) = _printed(SOLVING).splitlines()
    rng = np.random.default_rng(108)
    sizes = rng.integers(50, 400, size=(40, 1)) * np.arange(2, 8) + rng.integers(0, 30, (40, 6))
    values = rng.random((40, 1)) * np.log(np.arange(2, 8))
    chosen = solve_program(values, sizes, int(sizes.min(axis=1).sum() * 1.4))
    assert line == str(chosen.tolist())
