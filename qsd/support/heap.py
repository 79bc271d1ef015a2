"""Memory of the process: that freed goes back to the system, and the most that it took."""

import ctypes
import re
import resource
import sys
from pathlib import Path

_M_MMAP_THRESHOLD = -3
_THRESHOLD = 8 << 20


def return_freed_memory() -> None:
    """Lets glibc map every block of 8 MiB or more on its own, for the rest of the process.

    By itself it keeps blocks of up to 32 MiB on a heap that fills with holes between tensors of all sizes; of
    1 MiB, the system would spend a fifth of the time on clearing pages. Other systems have no such choice,
    and nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)


def peak_bytes() -> int:
    """The most memory that this process had resident.

    On Linux not what ``getrusage`` says: that starts with what the parent had when it started the process.
    """
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found is not None:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
