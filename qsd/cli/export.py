"""``qsd export``."""

from collections.abc import Sequence

from qsd.bank import Bank
from qsd.cli.console import command_line, console, print_json, run_function
from qsd.configs import load_config
from qsd.denoisers.pipeline import load_pipeline
from qsd.export import export as export_config
from qsd.provenance import provenance


def export(pipeline: str, bank: str, config: str, out: str, json: bool = False) -> None:
    """Writes the quantized denoiser of a config as packed safetensors that diffusers loads after `import qsd`.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        config: config file (`best.json` of a search), or the name of an option such as uaq-4.
        out: folder to write.
        json: print the sizes as JSON.
    """
    loaded = Bank.load(bank)
    names = [str(option) for option in loaded.options]
    genome = (
        loaded.uniform_config(config)
        if config in names
        else load_config(config, loaded.layer_names, names, loaded.denoiser)
    )
    result = export_config(
        load_pipeline(pipeline), loaded, genome, out, provenance=provenance(command_line())
    )
    if json:
        print_json(result.to_json())
    else:
        console.print(result.summary())


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(export, words)
