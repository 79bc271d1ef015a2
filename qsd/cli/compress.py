"""``qsd compress``."""

import re
import sys
from collections.abc import Sequence
from typing import Any, Literal

from jsonargparse.typing import PositiveInt
from rich.table import Table

from qsd.cli import fit
from qsd.cli.compressing import Compression, Plan
from qsd.cli.console import bar, command_line, console, messages, print_json, run_function
from qsd.cli.costs import cost_facts, show_cost
from qsd.cli.goals import EFFORTS, Goal
from qsd.cli.measured import measured_table
from qsd.denoisers import GraphKind
from qsd.denoisers.pipeline import DtypeName
from qsd.evaluation import EvaluationSettings
from qsd.export.formats import format_of
from qsd.search.coupling import FormatName
from qsd.support.errors import QsdError


def compress(
    pipeline: str,
    out: str = "compressed",
    max_bits: float | None = None,
    max_size: str | None = None,
    within: str | None = None,
    effort: Literal["quick", "normal", "thorough"] = "quick",
    format: FormatName = "qsd",
    options: list[str] | str | None = None,
    evaluation: EvaluationSettings | None = None,
    workers: PositiveInt = 1,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    denoiser: str | None = None,
    inputs: str | None = None,
    graph: GraphKind = "traced",
    ask: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Makes a pipeline small: bank, probes, labels, ranker, search, verification and export in one.

    Prints first what it will cost, measured on a few batches. Every stage goes on where it was when the same
    command is run again. Writes `pipeline` (which `DiffusionPipeline.from_pretrained` opens after
    `import qsd`; --for names other programs), `config.json`, `report.html`, `grid.png` and `summary.json` to
    the folder, and what it works on to `work` in it. Without --evaluation it draws 80 of 100 shipped prompts,
    verifies on the other 20, and compares with the full-precision images; with real images
    (--evaluation.reference) it goes by FID.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: folder to write to.
        max_bits: budget in average bits per weight, codebooks and scales included.
        max_size: budget for the weight layers in bytes, such as 1.2GB or 900MiB.
        within: instead of a budget, the largest FID as a multiple of full precision's, such as 1.1x.
        effort: quick (16 images per option, no labels), normal (32, and 50 labels), thorough (64, and 300).
        format: what opens the result, also written --for: qsd (diffusers after `import qsd`), sdnq (diffusers
            with sdnq installed, without qsd), gguf (ComfyUI-GGUF, stable-diffusion.cpp, diffusers) or comfy
            (ComfyUI); the last two write the denoiser alone.
        options: the option table, such as [uaq-3, lloyd-4g32:f8], or a table by name; by default what suits
            the format.
        evaluation: prompts, real images, metrics, image count, steps, guidance, seed of the noise.
        workers: processes that draw side by side on the CPU, one thread each.
        device: where one process draws when workers is 1.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        denoiser: name of the component to restrict to, where a pipeline has several denoisers.
        inputs: JSON file of the arguments of the denoiser's forward (qsd.save_inputs); none records them from
            the pipeline's own call.
        graph: traced, or chain for a denoiser that cannot be traced (weights in module order).
        ask: ask whether to go on once the cost is known.
        dry_run: print the cost and stop.
        json: print the summary as JSON.
    """
    plan = Plan(
        EFFORTS[effort],
        options,
        evaluation,
        workers=workers,
        device=device,
        dtype=dtype,
        format=format,
        denoiser=denoiser,
        inputs=inputs,
        graph=graph,
    )
    goal = Goal.parse(max_bits, max_size, within)
    run = Compression(pipeline, out, [goal], plan, command=command_line(), bar=bar)
    with messages.status("drawing a few batches"):
        cost = run.cost()
    show_cost(cost, messages)
    if dry_run or (ask and not _agreed()):
        if json:
            print_json({"cost": cost_facts(cost)})
        return
    summary = run.run(fit.run)
    run.save(summary)
    if json:
        print_json(summary | {"cost": cost_facts(cost)})
        return
    console.print(compared_table(summary))
    whole = f"open {summary['pipeline']} after `import {format}`"
    alone = f"{summary['pipeline']}/README.md tells how to load it"
    console.print(
        f"{summary['chosen']} exported: {summary['bytes']:,} bytes of denoiser, "
        f"{summary['full_precision_bytes']:,} at 16 bits; {whole if format_of(format).whole else alone}",
    )


def compared_table(summary: dict[str, Any]) -> Table:
    """What was measured, for people."""
    held_out = "other prompts and " if summary["held_out_prompts"] else ""
    title = f"measured on {held_out}fresh noise, {summary['images']} images x {len(summary['seeds'])}"
    return measured_table(title, summary["rows"], [summary["chosen"]])


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise QsdError("compress: --ask needs a terminal; leave it out, or look with --dry-run")
    return input("go on? [y/N] ").strip().lower() in ("y", "yes")


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    words = [re.sub(r"^--for(?==|$)", "--format", word) for word in words]
    run_function(compress, words, positional=True)
