"""Memory that a batch takes: what to say where it is not there, and how many images fit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from qsd.support.errors import QsdError, first_line
from qsd.support.heap import peak_bytes

_CPU = ("not enough memory", "can't allocate memory")  # of torch's allocator of main memory
_MARGIN = 0.9  # of free memory; metrics need some, and other programs


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a GPU or the main one, is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU)


@contextlib.contextmanager
def enough_memory(doing: str, batch_size: int) -> Iterator[None]:
    """Names the remedy where memory is used up meanwhile.

    Args:
        doing: what needs it.
        batch_size: images at a time.

    Raises:
        QsdError: memory is used up.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "lower batch_size" if batch_size > 1 else "batch_size is 1 already; lower height and width"
        raise QsdError(
            f"out of memory while {doing}, batch_size {batch_size}: {first_line(error)}; {remedy}"
        ) from error


class PeakMeter:
    """The most memory taken since it was made or last read: of a GPU, or of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset()

    def read(self) -> int | None:
        """Bytes since the last time; None where the system does not tell."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif self._can_reset:
            peak = peak_bytes()
        else:
            return None
        self._reset()
        return peak

    def _reset(self) -> None:
        self._can_reset = False
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu":
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                self._can_reset = True


def usable_bytes(device: torch.device, processes: int) -> int | None:
    """Memory that each of several processes on this machine may take, what this one has included.

    Returns:
        None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    with contextlib.suppress(OSError, KeyError, ValueError):
        free = _kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmRSS")
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
        return min(free, free if text == "max" else int(text)) // processes
    return None


def largest_batch(small: tuple[int, int], large: tuple[int, int], usable: int) -> int | None:
    """How many images a batch may have.

    Args:
        small: images and peak bytes of a batch.
        large: the same of a larger one.
        usable: bytes that may be taken.

    Returns:
        None where memory does not grow with the batch.
    """
    per_image = (large[1] - small[1]) / max(large[0] - small[0], 1)
    if per_image <= 0:
        return None
    return max(int((_MARGIN * usable - large[1]) / per_image) + large[0], 1)


def _kilobytes(path: str, name: str) -> int:
    lines = (line.partition(":") for line in Path(path).read_text(encoding="utf-8").splitlines())
    values = {key: value for key, _, value in lines}
    return int(values[name].split()[0]) * 1024
