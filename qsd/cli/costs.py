"""What a verb will cost, shown before it begins."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from qsd.cli.console import console, print_json
from qsd.cli.tables import number_table
from qsd.labels.estimate import Cost
from qsd.labels.shares import DRAWING


def show_cost(cost: Cost, out: Console) -> None:
    """Prints a cost for people, and what it should make one think of."""
    out.print(_table(cost))
    if cost.largest_batch is not None:
        out.print(f"largest batch that fits: {cost.largest_batch:,} (batch_size is {cost.batch_size:,})")
    for remark in cost.remarks:
        out.print(f"note: {remark}")


def show_costs(cost: Cost, json: bool, *, elsewhere: bool) -> None:
    """What ``--dry-run`` prints: for people, or as JSON.

    Args:
        cost: measured in this process.
        json: whether for machines.
        elsewhere: whether it will be drawn on a cluster, whose memory nobody knows here.
    """
    if elsewhere:
        cost = dataclasses.replace(cost, largest_batch=None)
    if json:
        print_json(cost_facts(cost))
    else:
        show_cost(cost, console)


def show_shares(seconds: dict[str, float], json: bool) -> None:
    """What ``--profile`` prints: for people, or as JSON."""
    if json:
        print_json({"seconds": seconds})
        return
    whole = sum(seconds.values())
    table = number_table(f"one label, {whole:.2f} s", ("", "seconds", "share"))
    for part, spent in seconds.items():
        table.add_row(part, f"{spent:.3f}", f"{spent / whole:.1%}")
    drawing = sum(seconds[part] for part in DRAWING)
    table.add_row("denoiser and decode", f"{drawing:.3f}", f"{drawing / whole:.1%}", style="bold")
    console.print(table)


def cost_facts(cost: Cost) -> dict[str, Any]:
    """A cost as JSON."""
    return {
        "images": dict(cost.images),
        "hours": cost.hours,
        "seconds_per_image": cost.seconds_per_image,
        "bank_seconds": cost.bank_seconds,
        "disk_bytes": cost.disk_bytes,
        "peak_memory_bytes": cost.peak_memory,
        "batch_size": cost.batch_size,
        "largest_batch": cost.largest_batch,
        "remarks": list(cost.remarks),
    }


def _table(cost: Cost) -> Table:
    measured = "a few batches and one layer" if cost.bank_seconds else "a few batches"
    table = number_table("what it will cost", ("", "images", "time"), caption=f"measured on {measured}")
    if cost.bank_seconds:
        table.add_row("quantize every layer every way", "", _time(cost.bank_seconds))
    for stage, images in cost.images.items():
        table.add_row(stage, f"{images:,}", _time(images * cost.seconds_per_image / cost.workers))
    table.add_row("in all", f"{cost.num_images:,}", _time(3600 * cost.hours), style="bold")
    table.add_section()
    table.add_row("disk", "", f"{cost.disk_bytes / 1e6:,.0f} MB")
    table.add_row("memory until now", "", f"{cost.peak_memory / 2**30:.1f} GiB")
    return table


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
