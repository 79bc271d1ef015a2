"""Runs a function in a process of its own and says what that took."""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from qsd.support.heap import peak_bytes


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a function returned and took.

    Attributes:
        result: what it returned.
        seconds: from its call to its return; the start of the process and its imports not included.
        cpu_seconds: the same in processor time over all threads, which other programs hardly disturb.
        peak_gib: the most memory that its process had resident, imports and mapped files included.
    """

    result: Any
    seconds: float
    cpu_seconds: float
    peak_gib: float


def in_fresh_process(function: Callable[..., Any], *arguments: Any, threads: int) -> Measured:
    """Calls a module-level function in a new process, so that its peak memory is no other's.

    Args:
        function: what to call.
        arguments: what it is called with; they and the result are pickled.
        threads: that torch computes on.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, function, arguments, threads).result()


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> Measured:
    torch.set_num_threads(threads)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function(*arguments)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Measured(result, seconds, cpu_seconds, peak_bytes() / 2**30)


def markdown_table(rows: list[list[str]]) -> str:
    """A Markdown table: the first row holds the headings; all columns but the first are right-aligned."""
    heading, *body = rows
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *body))
