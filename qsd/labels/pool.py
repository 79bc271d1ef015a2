"""Work spread over processes, each of which opens its own tools once."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Generic, Self, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Generic[Item, Result]):
    """Processes on the CPU, one thread each; results come as they are ready.

    One process per core (each computing on one thread) draws faster than one process on all cores.

    Args:
        open_tool: called once in every process; returns what does the work. A function of a module.
        arguments: of it, picklable.
        workers: number of processes.
    """

    def __init__(
        self, open_tool: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...], workers: int
    ) -> None:
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open,
            initargs=(open_tool, arguments),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run(self, items: Sequence[Item]) -> Iterator[Result]:
        """Works on items side by side, yielding results in order of completion."""
        futures = [self._executor.submit(_work, item) for item in items]
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: [future.cancel() for future in futures])
            for future in as_completed(futures):
                yield future.result()


_tool: Callable[[Any], Any] | None = None


def _open(open_tool: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _tool
    torch.set_num_threads(1)
    _tool = open_tool(*arguments)


def _work(item: Any) -> Any:
    assert _tool is not None, "the pool's initializer opens the tool"
    return _tool(item)
