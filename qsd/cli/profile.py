"""``qsd profile``."""

import dataclasses
from collections.abc import Sequence

from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.table import Table

from qsd.cli.console import bar, console, print_json, run_function
from qsd.evaluation.cost_plot import check_plot, plot_costs
from qsd.evaluation.costs import Costs, Workload, measure_costs, rows_of
from qsd.support.errors import QsdError


def profile(
    export: str,
    against: str,
    batch_sizes: list[PositiveInt] = [1, 4],  # noqa: B006
    sizes: list[PositiveInt] = [],  # noqa: B006
    steps: NonNegativeInt = 4,
    guidance: float = 1.0,
    repeats: PositiveInt = 5,
    threads: PositiveInt = 1,
    dtype: str = "float32",
    device: str = "cpu",
    peers: list[str] = [],  # noqa: B006
    plot: str | None = None,
    json: bool = False,
) -> None:
    """Measures what an export costs beside its full-precision pipeline, every form in a process of its own.

    Times are medians; the column x is processor time over that of full precision, which other programs on the
    machine hardly disturb. Memory is what a form needs beyond the process with all libraries imported.

    Args:
        export: folder written by `qsd export`.
        against: the full-precision pipeline that it was made from: folder, shipped name, or hub id.
        batch_sizes: images of a denoiser call and of a drawn batch.
        sizes: sides of the images in pixels; none takes the smallest that the pipeline draws.
        steps: denoising steps of drawn images; 0 draws none.
        guidance: of drawn images.
        repeats: timed denoiser calls.
        threads: of the processor.
        dtype: float32, bfloat16 or float16.
        device: where it runs.
        peers: other libraries' 4-bit weights beside it: torchao, optimum-quanto, bitsandbytes.
        plot: image file to draw the comparison into.
        json: print the numbers as JSON.
    """
    if not batch_sizes:
        raise QsdError("profile: name at least one of --batch-sizes, such as [1, 4]")
    workload = Workload(tuple(batch_sizes), tuple(sizes), steps, guidance, repeats, threads, dtype, device)
    if plot:
        check_plot(plot)
    with bar("Profiling") as progress:
        costs = measure_costs(export, against, workload, peers=peers, progress=progress)
    if json:
        print_json(
            {"workload": dataclasses.asdict(workload), "costs": [dataclasses.asdict(c) for c in costs]}
        )
    else:
        _print_table(costs)
    if plot:  # after the numbers, which a failure would lose
        plot_costs(costs, plot)
        if not json:
            console.print(f"drawn: {plot}")


def _print_table(costs: Sequence[Costs]) -> None:
    heading, *rows = rows_of(costs)
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for position, title in enumerate(heading):
        shown.add_column(title, justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(profile, words)
