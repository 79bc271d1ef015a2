"""Being told to stop: one exception for Ctrl-C, SIGTERM and SIGHUP; children end with their parent."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_PR_SET_PDEATHSIG = 1


class Stopped(KeyboardInterrupt):
    """The process was told to stop.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Stops:
    """What was received inside :func:`stoppable`.

    Attributes:
        signum: the signal, or None.
    """

    signum: int | None = None


@contextlib.contextmanager
def stoppable() -> Iterator[Stops]:
    """The first signal inside the block raises :class:`Stopped`; a second one does what it always does.

    Blocks that hold files, locks or children clean up as they do after any other exception.
    """
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():
        yield stops  # only the main thread may handle signals
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def stop(signum: int, _: FrameType | None) -> None:
        _restore(before)
        stops.signum = signum
        raise Stopped(signum)

    for signum in SIGNALS:
        if before[signum] != signal.SIG_IGN:  # `nohup` means it
            signal.signal(signum, stop)
    try:
        yield stops
    finally:
        _restore(before)


def _restore(handlers: dict[Any, Any]) -> None:
    for signum, handler in handlers.items():
        if handler is not None:
            signal.signal(signum, handler)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C inside the block comes after it; processes begun in it hear none before they say so.

    A terminal interrupts all processes, also those that still import what they need.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def die_with_parent() -> None:
    """Called in a child process: it leaves Ctrl-C to its parent, and ends when its parent does, however.

    The latter on Linux only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see :func:`interrupts_wait`
    for signum in SIGNALS[1:]:
        signal.signal(signum, signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was gone already
            os._exit(1)
