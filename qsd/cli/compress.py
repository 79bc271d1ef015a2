"""``qsd compress``."""

import re
import sys
from collections.abc import Sequence
from typing import Any, Literal

from rich.table import Table

from qsd.cli import fit
from qsd.cli.compressing import EFFORTS, TABLES, Compression, Goal
from qsd.cli.console import bar, command_line, console, messages, print_json, run_function
from qsd.cli.costs import cost_facts, show_cost
from qsd.denoisers.pipeline import DtypeName
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.evaluator import LABELS
from qsd.support.errors import QsdError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def compress(
    pipeline: str,
    out: str = "compressed",
    max_bits: float | None = None,
    max_size: str | None = None,
    within: str | None = None,
    effort: Literal["quick", "normal", "thorough"] = "quick",
    format: Literal["qsd", "sdnq"] = "qsd",
    options: list[str] | None = None,
    evaluation: EvaluationSettings | None = None,
    workers: int = 1,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    ask: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Makes a pipeline small: bank, probes, labels, ranker, search, verification and export in one.

    Prints first what it will cost, measured on two batches. Every stage goes on where it was when the same
    command is run again. Writes `pipeline` (which `DiffusionPipeline.from_pretrained` opens after
    `import qsd`), `config.json`, `grid.png` and `summary.json` to the folder, and what it works on to `work`
    in it. Without --evaluation it draws 80 of 100 shipped prompts, verifies on the other 20, and compares
    with the full-precision images; with real images (--evaluation.reference) it goes by FID.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: folder to write to.
        max_bits: budget in average bits per weight, codebooks and scales included.
        max_size: budget for the weight layers in bytes, such as 1.2GB or 900MiB.
        within: instead of a budget, the largest FID as a multiple of full precision's, such as 1.1x.
        effort: quick (16 images per option, no labels), normal (32, and 50 labels), thorough (64, and 300).
        format: what opens the result, also written --for: qsd (diffusers after `import qsd`), or sdnq
            (diffusers with sdnq installed, without qsd).
        options: the option table, such as [uaq-3, lloyd-4g32:f8]; by default what suits the format.
        evaluation: prompts, real images, metrics, image count, steps, guidance, seed of the noise.
        workers: processes that draw side by side on the CPU, one thread each.
        device: where one process draws when workers is 1.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        ask: ask whether to go on once the cost is known.
        dry_run: print the cost and stop.
        json: print the summary as JSON.
    """
    run = Compression(
        pipeline,
        out,
        Goal(max_bits, _bytes(max_size), _factor(within)),
        EFFORTS[effort],
        list(map(str, TABLES[format])) if options is None else options,
        evaluation,
        workers=workers,
        device=device,
        dtype=dtype,
        format=format,
        command=command_line(),
        bar=bar,
    )
    with messages.status("drawing two batches"):
        cost = run.cost()
    show_cost(cost, messages)
    if dry_run or (ask and not _agreed()):
        if json:
            print_json({"cost": cost_facts(cost)})
        return
    summary = run.run(fit.run)
    if json:
        print_json(summary | {"cost": cost_facts(cost)})
        return
    console.print(_table(summary))
    console.print(
        f"{summary['chosen']} exported: {summary['bytes']:,} bytes of denoiser, "
        f"{summary['full_precision_bytes']:,} at 16 bits; open {summary['pipeline']} after `import {format}`",
    )


def _table(summary: dict[str, Any]) -> Table:
    names = [found.name for found in LABELS if found.name in summary["rows"][0]]
    held_out = "other prompts and " if summary["held_out_prompts"] else ""
    title = f"measured on {held_out}fresh noise, {summary['images']} images x {len(summary['seeds'])}"
    table = Table(title=title)
    for heading in ("config", "bits", "MB", *(name.replace("_", " ") for name in names)):
        table.add_column(heading, justify="left" if heading == "config" else "right")
    for row in summary["rows"]:
        cells = [f"{row[name]:.4g}" for name in names]
        style = "bold" if row["name"] == summary["chosen"] else None
        table.add_row(row["name"], f"{row['avg_bits']:.2f}", f"{row['bytes'] / 1e6:.2f}", *cells, style=style)
    return table


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmg]?i?b?)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise QsdError(f"max-size {text!r}: give a size such as 1.2GB, 900MiB or 1200000")
    return int(float(match[1]) * _UNITS[match[2]])


def _factor(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text.lower().removesuffix("-fid").removesuffix("x"))
    except ValueError:
        raise QsdError(f"within {text!r}: give a multiple of full precision's FID such as 1.1x") from None


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise QsdError("compress: --ask needs a terminal; leave it out, or look with --dry-run")
    return input("go on? [y/N] ").strip().lower() in ("y", "yes")


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    words = [re.sub(r"^--for(?==|$)", "--format", word) for word in words]
    run_function(compress, words, positional=True)
