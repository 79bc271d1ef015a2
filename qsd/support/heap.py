"""Memory that is freed goes back to the system."""

import ctypes
import sys

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
