"""``qsd report``."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt

from qsd.cli.console import console, run_function
from qsd.explain.report import write_report
from qsd.explain.run_folder import RunFolder
from qsd.explain.study import write_study
from qsd.support.errors import QsdError


def report(
    run: str,
    out: str = "report.html",
    store: str | None = None,
    study: bool = False,
    reference: str | None = None,
    trials: PositiveInt = 60,
    seed: NonNegativeInt = 0,
) -> None:
    """Writes one self-contained HTML page of a run: front, measured numbers, images, costs, layers.

    The page needs no network and no other files. Costs of layers and their plots need a store: the run's own
    (`qsd compress`, `qsd demo`), or the one named. With --study it writes another page, on which people say
    blindly which of two configs' images is nearer to full precision's, and a key beside it; `qsd study`
    scores the answers.

    Args:
        run: folder of `qsd compress`, `qsd demo` or `qsd search`; for --study one with a grid.png.
        out: file to write.
        store: labeled or probed store that a search went by.
        study: write the page of a blind study instead, and `OUT.key.json`, which says which image was whose.
        reference: row of grid.png that the study compares with; the first (full precision) by default.
        trials: of the study, at most.
        seed: of the study's order and sides.
    """
    if study:
        grid = Path(run) / "grid.png"
        if not grid.exists():
            raise QsdError(f"{grid}: missing; a study needs the drawn images of `qsd compress` or `qsd demo`")
        key, count = write_study(grid, out, reference=reference, trials=trials, seed=seed)
        console.print(f"{out}: {count} trials; keep {key} from those who answer", markup=False)
        return
    write_report(RunFolder.open(run, store), out)
    console.print(f"{out}: open it in a browser", markup=False)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    flagged = ["--study=true" if word == "--study" else word for word in words]
    run_function(report, flagged, positional=True)
