"""``qsd export``."""

import dataclasses
from collections.abc import Sequence

from qsd.bank import Bank
from qsd.cli.config_names import read_config
from qsd.cli.console import command_line, console, print_json, run_function
from qsd.denoisers.pipeline import load_pipeline
from qsd.export import export as export_config
from qsd.support.provenance import provenance


def export(pipeline: str, bank: str, config_file: str, out: str, json: bool = False) -> None:
    """Writes the quantized denoiser of a config as packed safetensors; diffusers loads it after `import qsd`.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        config_file: config file (`best.json` of a search), or the name of an option such as uaq-4.
        out: folder to write.
        json: print the sizes as JSON.
    """
    loaded = Bank.load(bank)
    genome = read_config(loaded, config_file)
    result = export_config(
        load_pipeline(pipeline), loaded, genome, out, provenance=provenance(command_line())
    )
    sizes = {
        **dataclasses.asdict(result),
        "path": str(result.path),
        "paths": {name: str(path) for name, path in result.paths.items()},
        "holdings": result.holdings.to_json(),
    }
    if json:
        print_json(sizes)
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


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(export, words)
