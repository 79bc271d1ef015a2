"""``qsd export``."""

import dataclasses
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from qsd.bank import FULL_PRECISION, ActivationTable, Bank
from qsd.bank.carried import Carried
from qsd.cli.config_names import read_configs
from qsd.cli.console import command_line, console, print_json, run_function
from qsd.cli.overwriting import check_replaceable
from qsd.configs.document import load_document
from qsd.denoisers.components import denoiser_like
from qsd.denoisers.identity import same_denoiser
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.calibration import calibrate
from qsd.export import check_export, push_to_hub
from qsd.export import export as export_config
from qsd.export.facts import KEPT, facts_of, parts_of
from qsd.export.recipe import apply_recipe, read_recipe
from qsd.support.errors import QsdError
from qsd.support.provenance import provenance


def export(
    pipeline: str | None = None,
    bank: str | None = None,
    config_file: str | None = None,
    evaluation: EvaluationSettings | None = None,
    out: str | None = None,
    format: Literal["qsd", "recipe", "sdnq", "gguf", "comfy"] = "qsd",
    recipe: str | None = None,
    variant: str | None = None,
    push: str | None = None,
    check: str | None = None,
    denoiser: str | None = None,
    dtype: DtypeName = "float32",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Writes the quantized denoiser of a config as packed safetensors; diffusers loads it after `import qsd`.

    `--format recipe` writes no tensors but which type each layer gets: `qsd export --recipe R --pipeline P`
    gives another checkpoint of the same layers, such as a fine-tune, those types, without a bank or a label.

    `qsd export --check FOLDER` writes nothing and compares every tensor of an export with its content hash.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        config_file: config file (`best.json` of a search), or the name of an option such as uaq-4; then @ and
            an activation option (uaq-4@8) or a schedule file, where the bank has activation options. The
            export carries them, and whoever opens it rounds activations in simulation.
        evaluation: how to draw, for activation options that need ranges of full-precision images.
        out: folder to write.
        format: what to write.
        recipe: a recipe to apply to the pipeline, instead of --bank and --config-file.
        variant: part of the names of the denoiser's files, for from_pretrained(variant=...).
        push: upload the folder to this repository of a hub (user/name) afterwards.
        check: an export to check instead.
        denoiser: of a pipeline with several, name of the one to quantize; others stay at full precision.
        dtype: float32, bfloat16 or float16, of what is not quantized.
        overwrite: replace an export of another config or format, or one that was fine-tuned; one of the same
            is replaced anyway.
        json: print the sizes as JSON.
    """
    if check is not None:
        writing = (pipeline, bank, config_file, evaluation, out, recipe, push, denoiser, overwrite)
        if any(writing) or (format, dtype) != ("qsd", "float32"):
            raise QsdError("export --check writes nothing; give it alone, or with --variant and --json")
        _check(check, variant, json)
        return
    alone = recipe is not None and bank is None and config_file is None
    if pipeline is None or out is None or (not alone and (recipe or bank is None or config_file is None)):
        raise QsdError(
            "export needs --pipeline, --out, and --recipe or --bank with --config-file; or --check alone"
        )
    pipe = load_pipeline(pipeline, dtype=dtype)
    activations, table = None, None
    if recipe is not None:
        document = read_recipe(recipe)
        loaded, config = apply_recipe(
            document, pipe, recipe, denoiser=denoiser, provenance=provenance(command_line())
        )
    else:
        assert bank is not None and config_file is not None
        loaded = Bank.load(bank)
        (config,), (activations,) = read_configs(loaded, [config_file])
        if activations is not None:
            table = _table(pipe, loaded, evaluation)
    if not overwrite:
        _check_the_same(Path(out), loaded, config, activations, format, denoiser)
    result = export_config(
        pipe,
        loaded,
        config,
        out,
        variant=variant,
        provenance=provenance(command_line()),
        document=_document(config_file),
        activations=activations,
        activation_table=table,
        format=format,
        only=denoiser,
    )
    address = push_to_hub(out, push) if push is not None else None
    sizes = {
        **dataclasses.asdict(result),
        "path": str(result.path),
        "paths": {name: str(path) for name, path in result.paths.items()},
        "holdings": result.holdings.to_json(),
    }
    if json:
        print_json(sizes | ({"address": address} if address else {}))
        return
    console.print(
        f"wrote {result.path}: {result.num_bytes:,} bytes, of {result.full_precision_bytes:,} at 16 bits"
    )
    console.print(
        f"  {result.average_bits:.2f} bits on average over the weight layers, "
        f"{result.average_bits_of_all:.2f} over all parameters"
    )
    for name in ("code_bytes", "codebook_bytes", "unquantized_bytes", "header_bytes"):
        console.print(f"  {name.replace('_', ' '):<18}{sizes[name]:>12,}")
    console.print("\n".join(result.holdings.lines()))
    if result.activations:
        console.print("  inputs of layers are rounded, in simulation, by whoever opens it")
    if recipe is not None:
        console.print(_known(document, loaded))
    if address:
        console.print(f"uploaded: {address}")


def _check_the_same(
    out: Path, bank: Bank, config: np.ndarray, activations: Any, format: str, only: str | None
) -> None:
    """Refuses to replace an export of another denoiser or config, or one that was trained.

    Raises:
        QsdError: it is one.
    """
    prefix = f"{only}." if only and any(name.startswith(f"{only}.") for name in bank.layer_names) else ""
    chosen = {
        name.removeprefix(prefix): str(bank.options[option])
        for name, option in zip(bank.layer_names, config, strict=True)
        if option != FULL_PRECISION and name.startswith(prefix)
    }
    carried = Carried.of(bank, activations)
    rounded = carried and carried.part(prefix)
    wanted = {
        "config": {name: option for name, option in chosen.items() if option != KEPT},
        "format": format,
        "fine-tuning": None,
        "rounding of activations": rounded and json_module.loads(json_module.dumps(rounded.to_json())),
    }
    if not prefix:  # else an export of one of the bank's several denoisers, whose layers tell it
        wanted["denoiser"] = bank.denoiser
    if parts_of(out):
        check_replaceable(out, wanted, lambda: facts_of(out))


def _document(config_file: str | None) -> dict[str, Any] | None:
    """What a config file tells beside its options; uniform configs tell nothing."""
    own = (config_file or "").rpartition("@")[0] or config_file or ""
    return next((load_document(name) for name in (config_file or "", own) if Path(name).is_file()), None)


def _table(pipe: Any, bank: Bank, evaluation: EvaluationSettings | None) -> ActivationTable | None:
    """The activation options with the ranges that they need; without a way to draw, without."""
    if evaluation is None:
        return None
    denoiser = denoiser_like(pipe, bank.denoiser)
    return calibrate(pipe, denoiser, bank.layers, bank.activation_options, evaluation)


def _known(recipe: dict[str, Any], bank: Bank) -> Table:
    """For which checkpoint the numbers of a recipe were measured and predicted."""
    table = Table(title="what is known of the recipe", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("checkpoint", "measured", "predicted"):
        table.add_column(head)
    found = recipe.get("denoiser") or {}
    own = same_denoiser(bank.denoiser, found)
    numbers = [_numbers(recipe.get(kind)) for kind in ("measured", "predicted")]
    if not own:
        table.add_row(f"of the recipe ({_spelled(found)})", *numbers)
    table.add_row(f"this one ({_spelled(bank.denoiser)})", *(numbers if own else ("nothing", "nothing")))
    return table


def _spelled(denoiser: dict[str, Any]) -> str:
    return f"weights {str(denoiser['weights_hash'])[:8]}" if "weights_hash" in denoiser else "unknown"


def _numbers(found: dict[str, Any] | None) -> str:
    known = {name: value for name, value in (found or {}).items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in known.items()) or "nothing"


def _check(folder: str, variant: str | None, json: bool) -> None:
    """Compares an export with its hashes."""
    checks = check_export(folder, variant=variant)
    if json:
        print_json([{**dataclasses.asdict(found), "folder": str(found.folder)} for found in checks])
        return
    for found in checks:
        console.print(
            f"{found.folder}: {found.tensors:,} tensors in {found.files} file(s), {found.num_bytes:,} bytes, "
            "as they were written"
        )


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(export, words)
