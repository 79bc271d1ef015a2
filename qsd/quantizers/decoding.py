"""From packed codes and a table to a dense weight, at the speed of memory."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from qsd.quantizers.packing import unpack

SHARED_WEIGHTS = 1 << 19
"""Weights below which one thread is as fast as several."""

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
    threads = torch.get_num_threads()
    if threads == 1 or len(values) < SHARED_WEIGHTS:
        decoding_kernels.decode(codes, rows, bits, values, 0, len(values))
        return out
    step = -(-len(values) // threads)
    ranges = [(start, min(start + step, len(values))) for start in range(0, len(values), step)]
    pool = _pool(threads)
    jobs = [pool.submit(decoding_kernels.decode, codes, rows, bits, values, *part) for part in ranges[1:]]
    decoding_kernels.decode(codes, rows, bits, values, *ranges[0])
    for job in jobs:
        job.result()
    return out


def _gather(packed: Tensor, table: Tensor, bits: int, out: Tensor) -> Tensor:
    """By torch's own operations, on any device."""
    if not out.is_meta:
        codes = unpack(packed, bits, out.numel()).view(len(table), -1)
        torch.gather(table, 1, codes.long(), out=out.view(len(table), -1))
    return out


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="qsd-decode")
