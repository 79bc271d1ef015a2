"""Freed memory goes back, as far as this system has that choice."""

import subprocess
import sys

import pytest

from qsd.support.heap import peak_bytes

CODE = """
import torch
from qsd.support.heap import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

return_freed_memory()
before = resident()
many = [torch.ones(5 << 19) for _ in range(16)]  # 10 MiB each
pins = [torch.ones(1 << 10) for _ in range(64)]
grown = resident() - before
del many
print(grown, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tells of /proc and glibc")
def test_large_blocks_are_given_back() -> None:
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    grown, left = map(int, printed.split())
    assert grown > 100 * 2**20
    assert left < 20 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="tells of /proc")
def test_the_peak_is_not_that_of_the_parent() -> None:
    """What getrusage says starts with the memory of whoever started the process."""
    held = bytearray(b"1") * (600 * 2**20)
    code = "from qsd.support.heap import peak_bytes; print(peak_bytes())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(printed) < 500 * 2**20 < len(held) < peak_bytes()
