"""``qsd report``."""

from collections.abc import Sequence

from qsd.cli.console import console, run_function
from qsd.explain.report import write_report
from qsd.explain.run_folder import RunFolder


def report(run: str, out: str = "report.html", store: str | None = None) -> None:
    """Writes one self-contained HTML page of a run: front, measured numbers, images, costs, layers.

    The page needs no network and no other files. Costs of layers and their plots need a store: the run's own
    (`qsd compress`, `qsd demo`), or the one named.

    Args:
        run: folder of `qsd compress`, `qsd demo` or `qsd search`.
        out: file to write.
        store: labeled or probed store that a search went by.
    """
    write_report(RunFolder.open(run, store), out)
    console.print(f"{out}: open it in a browser", markup=False)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(report, words, positional=True)
