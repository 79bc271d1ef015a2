"""A verb that works until it is told to stop: holds a half-written file and a worker process."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from qsd.support.files import atomic
from qsd.support.workers import Workers


def _work(folder: Path) -> None:
    (folder / "worker.txt").write_text(str(os.getpid()))
    time.sleep(100)


def run(words: Sequence[str]) -> None:
    """Waits for a worker that sleeps, or for a disk that is full."""
    folder = Path(words[1])
    with Workers(1, int, ()) as workers, atomic(folder / "result") as temporary:
        temporary.write_text("half")
        if words[2:] == ["full"]:
            Path("/dev/full").write_text("x")
        list(workers.run(_work, [folder]))


if __name__ == "__main__":
    from qsd.cli import VERBS, main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background,
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or under nohup
    sys.modules["qsd.cli.sleep"] = sys.modules["__main__"]
    VERBS["sleep"] = VERBS["graph"]._replace(module="sleep")
    raise SystemExit(main(["sleep", *sys.argv[1:]]))
