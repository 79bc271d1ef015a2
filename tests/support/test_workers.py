"""Workers check files as their parent does; what all would remark is said once."""

import logging
import signal
import sys
import time
from collections.abc import Sequence

import pytest

from qsd.support.hashing import verification, verifying
from qsd.support.stops import interrupts_wait
from qsd.support.workers import Workers


def _begin() -> None:
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("qsd").warning("a remark")


def _facts(item: int) -> tuple[int, bool]:
    time.sleep(0.5)  # so that every worker gets an item
    return item, verifying()


@pytest.mark.parametrize("check", [True, False])
def test_workers_do_as_their_parent(check: bool, capfd: pytest.CaptureFixture[str]) -> None:
    items: Sequence[int] = range(4)
    with verification(check), Workers(2, _begin, ()) as workers:
        found = sorted(workers.run(_facts, items))
    assert found == [(item, check) for item in items]
    assert capfd.readouterr().err.count("a remark") == 1


def _blocked(_: int) -> set[int]:
    return {int(signum) for signum in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def test_workers_hear_no_interrupt_before_they_ignore_it() -> None:
    with Workers(1, _begin, ()) as workers:
        assert list(workers.run(_blocked, [0])) == [set()]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's own workers ignore it
    heard = False
    try:
        with pytest.raises(KeyboardInterrupt), interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            heard = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard
