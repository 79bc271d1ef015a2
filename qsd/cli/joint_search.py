"""``qsd search`` with budgets of activations: weights and activations are searched together."""

from pathlib import Path
from typing import Any

from rich.table import Table

from qsd.bank import Bank
from qsd.cli.console import bar, command_line, console, print_json
from qsd.cli.overwriting import check_replaceable
from qsd.configs.document import config_to_json, layers_to_json, load_document, save_config
from qsd.ranker.checkpoint import load_ranker
from qsd.ranker.joint_search import search_with_activations
from qsd.support.errors import QsdError


def run_joint(
    bank: str,
    out: str,
    ranker: str | None,
    *,
    max_bits: float | None,
    max_act_bits: float | None,
    max_bops: float | None,
    seed: int,
    overwrite: bool,
    json: bool,
) -> None:
    """Writes ``best.json``, a config with activations, and says what it costs."""
    if ranker is None:
        raise QsdError("max_act_bits, max_bops: need --ranker, trained on a store with activation options")
    loaded, predictor = Bank.load(bank), load_ranker(ranker)
    best, wanted = Path(out) / "best.json", {"denoiser": loaded.denoiser, "kind": "activations"}
    check_replaceable(best, wanted, lambda: _facts(best), overwrite=overwrite)
    with bar("Search") as progress:
        found = search_with_activations(
            predictor,
            loaded,
            max_bits=max_bits,
            max_act_bits=max_act_bits,
            max_bops=max_bops,
            seed=seed,
            progress=progress,
        )
    texts = [str(option) for option in loaded.activation_options]
    predicted = {"predicted": found.predicted, "activations": "simulated", **found.costs}
    document = config_to_json(
        found.config,
        loaded.layer_names,
        [str(option) for option in loaded.options],
        loaded.denoiser,
        loaded.options_hash,
        activations=layers_to_json(found.activations, loaded.layer_names, texts),
        predicted=predicted,
        command=command_line(),
    )
    save_config(best, document)
    if json:
        print_json({"best": f"{out}/best.json", **predicted})
        return
    table = Table(title=f"{out}/best.json: predicted, activations simulated")
    for heading in ("average bits", "activation bits", "bit-operations", predictor.target):
        table.add_column(heading, justify="right")
    costs = found.costs
    table.add_row(
        f"{costs['bits']:.3f}",
        f"{costs['activation bits']:.3f}",
        f"{costs['bit-operations']:.4g}",
        f"{found.predicted:.4g}",
    )
    console.print(table)


def _facts(best: Path) -> dict[str, Any]:
    document = load_document(best)
    return {
        "denoiser": document["denoiser"],
        "kind": "activations" if document.get("activations") else "weights",
    }
