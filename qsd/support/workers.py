"""Worker processes that never outlive the work: not an error, not a signal, not their parent's death.

They check files as their parent does, and what all would remark is said by one.
"""

import contextlib
import logging
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self

from qsd.support.errors import QsdError
from qsd.support.hashing import verification, verifying
from qsd.support.stops import die_with_parent, interrupts_wait


class Workers:
    """Processes that each begin with a call and then work on what they are given.

    Args:
        count: number of processes.
        begin: called in each of them first, with ``arguments``.
        arguments: that can be pickled.
    """

    def __init__(self, count: int, begin: Callable[..., None], arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(
            count,
            mp_context=context,
            initializer=_begin,
            initargs=(context.Value("i", 0), verifying(), begin, tuple(arguments)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for what is being worked on
            for process in list((self._executor._processes or {}).values()):
                process.kill()
        self._executor.shutdown(cancel_futures=True)

    def run(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Calls ``work`` on items side by side, yielding results in order of completion.

        Raises:
            QsdError: a worker was killed.
            Exception: what a worker's beginning or work raised.
        """
        futures = []
        try:
            with interrupts_wait():  # while the processes begin
                futures = [self._executor.submit(_call, work, item) for item in items]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise QsdError(
                "a worker process was killed, or ended before it began (is memory short?); what was measured "
                "is safe: run the same command again, with fewer --workers if it happens again"
            ) from error
        finally:
            for future in futures:
                future.cancel()


_failure: Exception | None = None
_settings = contextlib.ExitStack()


def _begin(begun: Any, check: bool, begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    global _failure
    die_with_parent()
    _settings.enter_context(verification(check))
    with begun.get_lock():
        first, begun.value = begun.value == 0, begun.value + 1
    if not first:  # all would say the same
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    try:
        begin(*arguments)
    except Exception as error:  # an initializer that raises says nothing but that the pool is broken
        _failure = error


def _call(work: Callable[[Any], Any], item: Any) -> Any:
    if _failure is not None:
        raise _failure
    return work(item)
