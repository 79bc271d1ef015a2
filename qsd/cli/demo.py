"""``qsd demo``."""

import dataclasses
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from qsd.cli import fit
from qsd.cli.console import bar, command_line, console, print_json, run_function
from qsd.cli.demonstration import DemoSettings, run_demo
from qsd.cli.overwriting import check_replaceable, spelled
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find


def demo(out: str, settings: DemoSettings, overwrite: bool = False, json: bool = False) -> None:
    """Runs the whole road: bank, a few labels, ranker, search, verification by measuring, export.

    Writes bank, store, ranker, fronts, `pareto.png`, `grid.png`, the exported pipeline and `summary.json`,
    and prints one table of everything measured.

    Args:
        out: folder to write to.
        settings: pipeline, store, evaluation, budgets; without --config the shipped `demo.yaml`.
        overwrite: replace a demo of other settings; one of the same is run again in its place anyway.
        json: print the summary as JSON instead of the table.
    """
    file = Path(out) / "summary.json"
    wanted = {"settings": json_module.loads(json_module.dumps(dataclasses.asdict(settings)))}
    check_replaceable(file, wanted, lambda: _facts(file), overwrite=overwrite)
    summary = run_demo(settings, out, bar=bar, fit=fit.run, command=command_line())
    if json:
        print_json(summary)
        return
    console.print(demo_table(summary))
    for row in summary["searched"]:
        verdict = "beats" if row["fid"] < row["best_rival_fid"] else "does not beat"
        console.print(
            f"{row['name']}: FID {row['fid']:.2f} {verdict} the best uniform or random config that fits, "
            f"{row['best_rival']} with {row['best_rival_fid']:.2f}"
        )
    seconds = summary["seconds"]
    console.print("seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()))
    exported = summary["export"]
    console.print(
        f"exported {exported['path']}: {exported['bytes']:,} bytes; reloaded, its latents differ by at most "
        f"{exported['max_abs_difference']:g}"
    )
    console.print(f"look at {out}/pareto.png and {out}/grid.png; numbers in {out}/summary.json")


def _facts(file: Path) -> dict[str, Any]:
    try:
        return dict(json_module.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise QsdError(f"{file}: no summary of a demo ({first_line(error)}); name another --out") from error


def demo_table(summary: dict[str, Any]) -> Table:
    """Everything that the demo measured, one row a config."""
    full = summary["full_precision"]
    seeds = ", ".join(map(str, full["seeds"]))
    table = Table(
        title=f"measured on {full['num_images']} images with each of the noise seeds {seeds}",
        caption="agree: the classifier sees the prompted digit; pred: the ranker's prediction of its target",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("config", no_wrap=True)
    for heading in ("bits", "kB", "FID", "KID", "CLIP", "agree", "PSNR", "pred"):
        table.add_column(heading, justify="right", no_wrap=True)
    groups = [[full], summary["uniform"], summary["random_best"], summary["searched"]]
    for group in groups:
        for row in group:
            predicted = f"{row['predicted']:.2f}" if "predicted" in row else ""
            table.add_row(
                row["name"],
                f"{row['avg_bits']:.2f}",
                f"{row['bytes'] / 1000:,.1f}",
                f"{row['fid']:.2f}±{row['fid_std']:.2f}",
                f"{row['kid']:.3f}",
                f"{row['clip']:.1f}",
                f"{row['agreement']:.1%}",
                "" if row is full else f"{row['psnr']:.1f}",
                predicted,
                style="bold" if group is summary["searched"] else None,
            )
        table.add_section()
    return table


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    words = spelled(words)
    if not any(word.startswith("--config") for word in words):
        words[1:1] = ["--config", str(find("demo.yaml"))]
    run_function(demo, words)
