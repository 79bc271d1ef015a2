"""``qsd bank``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import PositiveInt
from rich.table import Table
from torch import nn

from qsd.api import write_bank
from qsd.bank import Bank
from qsd.bank.growing import with_options, without_options
from qsd.cli.console import bar, command_line, console, messages, print_json, run_function
from qsd.cli.overwriting import check_replaceable
from qsd.cli.tables import number_table
from qsd.denoisers import GraphKind, holdings, load_inputs
from qsd.denoisers.accounting import average_bits_of_all
from qsd.denoisers.components import denoiser_like
from qsd.denoisers.pipeline import DtypeName, dtype_of, load_pipeline
from qsd.denoisers.source import open_source
from qsd.evaluation import EvaluationSettings
from qsd.quantizers import parse_options
from qsd.quantizers.activations import parse_activations
from qsd.support.errors import QsdError
from qsd.support.heap import return_freed_memory
from qsd.support.progress import Progress


def bank(
    pipeline: str,
    out: str,
    options: list[str] | str = "default",
    denoiser: str | None = None,
    inputs: str | None = None,
    evaluation: EvaluationSettings | None = None,
    graph: GraphKind = "traced",
    activations: list[str | int] = ["16"],  # noqa: B006
    threads: PositiveInt | None = None,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    add: list[str] | str | None = None,
    drop: list[str] | str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Quantizes every weight layer of a pipeline's denoiser by every option and saves the bank.

    Weights are read from the pipeline's files one by one and quantized into the bank's: neither is ever in
    memory as a whole. A pipeline with several denoisers (Wan 2.2, Stable Cascade) gets one bank for all.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: safetensors file to write.
        options: the option table, such as [uaq-4g64, lloyd-3, keep]; or a table by name: default, paper,
            or what an export format holds (sdnq, gguf, comfy).
        denoiser: name of the component to restrict to, where a pipeline has several denoisers.
        inputs: JSON file of the arguments of the denoiser's forward (qsd.save_inputs); none records them from
            the pipeline's own call.
        evaluation: of the labels to come: that call is given its prompts, images, sizes and call, which some
            pipelines need.
        graph: traced, or chain for a denoiser that cannot be traced (weights in module order).
        activations: ways to round the inputs of layers that random configs and searches choose from, such as
            [16, 8, 6, 4, 8h]: bits, then h for a rotation in front or m for smoothing, then t for static
            ranges.
        threads: layers quantized at a time on the CPU; by default as many as there are cores.
        device: where layers are quantized.
        dtype: float32, bfloat16 or float16, which the weights are read in.
        add: options to add to the bank that is there: they alone are quantized, and all else is kept.
        drop: options to take out of the bank that is there; stores keep their records of them.
        overwrite: replace a bank of another denoiser or option table; a bank of the same is kept.
        json: print the sizes and errors of the uniform configs as JSON.
    """
    return_freed_memory()
    if add is not None or drop is not None:
        _check_alone(out, options, activations)
        pipe = load_pipeline(pipeline, device=device, dtype=dtype, encoders=False)
        with bar("Bank") as progress:
            built = _changed(pipe, out, add, drop, threads or os.cpu_count() or 1, progress)
        built.save(out)
        _show(denoiser_like(pipe, built.denoiser), built, out, json)
        return
    source = open_source(pipeline, denoiser=denoiser, device=device, dtype=dtype_of(dtype))
    wanted = {
        "denoiser": source.identity,
        "option table": [str(option) for option in parse_options(options)],
        "activations": [str(option) for option in parse_activations(activations)],
        "graph": graph,
    }
    there = check_replaceable(Path(out), wanted, lambda: _facts(Bank.load(out)), overwrite=overwrite)
    if there and inputs is None and evaluation is None:
        built = Bank.load(out)
        messages.print(f"{out}: is there already, of the same denoiser and options")
    else:
        with bar("Bank") as progress:
            built = write_bank(
                source,
                out,
                options,
                inputs=load_inputs(inputs) if inputs else None,
                evaluator=evaluation,
                graph=graph,
                activations=activations,
                threads=threads or os.cpu_count() or 1,
                command=command_line(),
                progress=progress,
            )
    _show(source.module, built, out, json)


def _check_alone(out: str, options: list[str] | str, activations: list[str | int]) -> None:
    """Refuses a whole table beside `--add` or `--drop`, unless it is the one that the bank has."""
    there = Bank.load(out)
    if options != "default" and parse_options(options) != there.options:
        raise QsdError(
            f"{out}: --add and --drop change the table that it has, {', '.join(map(str, there.options))}; "
            "leave --options out"
        )
    if activations != ["16"] and parse_activations(activations) != there.activation_options:
        raise QsdError(
            f"{out}: --add and --drop leave its activations, {', '.join(map(str, there.activation_options))};"
            " leave --activations out, or build another bank"
        )


def _changed(
    pipe: Any,
    out: str,
    add: list[str] | str | None,
    drop: list[str] | str | None,
    threads: int,
    progress: Progress,
) -> Bank:
    """The bank that is there, with more options or fewer."""
    there = Bank.load(out)
    if drop is not None:
        there = without_options(there, parse_options(drop))
    if add is not None:
        denoiser = denoiser_like(pipe, there.denoiser)
        there = with_options(there, denoiser, parse_options(add), threads=threads, progress=progress)
    return there


def _show(denoiser: nn.Module, built: Bank, out: str, json: bool) -> None:
    held = holdings(denoiser, built.layers)
    rows = uniform_rows(built, held.num_parameters)
    if json:
        print_json({"bank": out, "layers": len(built.layers), "uniform": rows, "holdings": held.to_json()})
    else:
        console.print(_table(built, rows, out))
        console.print("\n".join(held.lines()))


def _facts(earlier: Bank) -> dict[str, Any]:
    chain = all(node.layer >= 0 for node in earlier.graph.nodes)
    return {
        "denoiser": earlier.denoiser,
        "option table": [str(option) for option in earlier.options],
        "activations": [str(option) for option in earlier.activation_options],
        "graph": "chain" if chain else "traced",
    }


def uniform_rows(built: Bank, num_parameters: int) -> list[dict[str, float | int | str]]:
    """Size and error of every uniform config of a denoiser with so many parameters."""
    rows: list[dict[str, float | int | str]] = []
    for index, option in enumerate(built.options):
        config = built.uniform_config(option)
        rows.append(
            {
                "option": str(option),
                "bytes": int(built.config_bytes(config)),
                "avg_bits": float(built.average_bits(config)),
                "avg_bits_of_all": average_bits_of_all(
                    int(built.config_bytes(config)),
                    int(built.num_weights.sum()),
                    num_parameters,
                ),
                "mean_relative_error": float(np.nanmean(built.relative_errors[:, index])),
            }
        )
    return rows


def _table(built: Bank, rows: list[dict[str, float | int | str]], out: str) -> Table:
    weights = int(built.num_weights.sum())
    table = number_table(
        f"{out}: {len(built.layers)} weight layers, {weights:,} weights, uniform configs",
        ("option", "bytes", "average bits", "of all parameters", "mean relative error"),
    )
    for row in rows:
        table.add_row(
            str(row["option"]),
            f"{row['bytes']:,}",
            f"{row['avg_bits']:.3f}",
            f"{row['avg_bits_of_all']:.3f}",
            f"{row['mean_relative_error']:.4f}",
        )
    return table


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(bank, words)
