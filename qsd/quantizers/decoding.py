"""From packed codes and a table to a dense weight, at the speed of memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from qsd.quantizers.packing import unpack

SHARED_WEIGHTS = 1 << 19
"""Weights below which one thread is as fast as several."""

_own = threading.local()
_WORDS = {2: torch.int16, 4: torch.int32}


def decode(packed: Tensor, table: Tensor, out: Tensor) -> Tensor:
    """Replaces packed codes by the values that a table gives them.

    Args:
        packed: uint8, codes in the layout of :mod:`qsd.quantizers.packing`.
        table: [R, 2^bits], any dtype; row r serves the codes from ``r * n / R`` up to the next row's.
        out: contiguous, n values (a multiple of R) of the table's dtype; overwritten.

    Returns:
        ``out``.
    """
    bits = table.shape[1].bit_length() - 1
    if out.device.type != "cpu" or out.element_size() not in _WORDS:
        return _gather(packed, table, bits, out)
    from qsd.quantizers import decoding_kernels

    word = _WORDS[out.element_size()]
    codes, rows = packed.numpy(), table.contiguous().view(word).numpy()
    values = out.view(-1).view(word).numpy()
    _shared(
        lambda start, stop: decoding_kernels.decode(codes, rows, bits, values, start, stop), len(values), 1
    )
    return out


def decode_scaled(packed: Tensor, book: Tensor, scales: Tensor, out: Tensor) -> bool:
    """Replaces packed codes by ``book[code] * scale``, if this machine and type have a fast way.

    Args:
        packed: uint8, codes in the layout of :mod:`qsd.quantizers.packing`.
        book: float32 [2^bits].
        scales: float32 [R]; each serves an equal run of the codes.
        out: contiguous, n values (a multiple of R), float32 or bfloat16; overwritten.

    Returns:
        Whether it was done: not on other devices, in other types, or where products leave the type's range.
    """
    limit = torch.finfo(out.dtype).max
    if (
        out.device.type != "cpu"
        or out.dtype not in (torch.float32, torch.bfloat16)
        or not float(book.abs().max()) * float(scales.abs().max()) <= limit
    ):
        return False
    from qsd.quantizers import decoding_kernels

    bits = len(book).bit_length() - 1
    codes, entries, factors = packed.numpy(), book.contiguous().numpy(), scales.contiguous().numpy()
    values = out.view(-1).view(_WORDS[out.element_size()]).numpy()
    _shared(
        lambda start, stop: decoding_kernels.decode_scaled(
            codes, entries, factors, bits, values, start, stop
        ),
        len(scales),
        len(values) // len(scales),
    )
    return True


def rotate_blocks(values: Tensor, block: int) -> None:
    """Multiplies blocks by Sylvester's orthonormal Hadamard matrix, in place.

    Args:
        values: float32 on the CPU, contiguous, whole blocks.
        block: a power of two, at most 128.
    """
    from qsd.quantizers import decoding_kernels

    flat = values.view(-1).numpy()
    _shared(
        lambda start, stop: decoding_kernels.rotate(flat[start * block : stop * block], block),
        len(flat) // block,
        block,
    )


def scratch(count: int) -> Tensor:
    """The thread's float32 buffer for ``count`` values; what it held before is lost."""
    buffer: Tensor | None = getattr(_own, "buffer", None)
    if buffer is None or len(buffer) < count:
        with torch.inference_mode(False):  # to be used outside of it too
            buffer = _own.buffer = torch.empty(count)
    return buffer[:count]


def _shared(job: Callable[[int, int], None], count: int, size: int) -> None:
    """Runs a job over 0 to ``count`` items of a size, on all of torch's threads if that is worth it."""
    threads = torch.get_num_threads()
    if threads == 1 or count * size < SHARED_WEIGHTS:
        job(0, count)
        return
    step = -(-count // threads)
    ranges = [(start, min(start + step, count)) for start in range(0, count, step)]
    others = [_pool(threads).submit(job, *part) for part in ranges[1:]]
    job(*ranges[0])
    for other in others:
        other.result()


def _gather(packed: Tensor, table: Tensor, bits: int, out: Tensor) -> Tensor:
    """By torch's own operations, on any device."""
    if not out.is_meta:
        codes = unpack(packed, bits, out.numel()).view(len(table), -1)
        torch.gather(table, 1, codes.long(), out=out.view(len(table), -1))
    return out


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="qsd-decode")
