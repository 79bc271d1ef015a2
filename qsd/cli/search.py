"""``qsd search``."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from qsd.api import search as search_configs
from qsd.bank import Bank
from qsd.cli.console import bar, command_line, console, print_json, run_function
from qsd.configs.document import config_to_json, save_config
from qsd.ranker.checkpoint import load_ranker
from qsd.search import Front, SearchSettings, plot_front


def search(
    ranker: str,
    bank: str,
    out: str,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    settings: SearchSettings = SearchSettings(),  # noqa: B008
    seed: int = 0,
    json: bool = False,
) -> None:
    """Searches configs of high predicted quality within a size budget that is never exceeded.

    Writes `front.json` (the Pareto front, configs by layer name), `best.json` (its best config, ready for
    `qsd measure` and `qsd export`) and `front.png`.

    Args:
        ranker: folder of a trained ranker (`qsd fit`).
        bank: the denoiser's bank (`qsd bank`).
        out: folder to write to.
        max_bits: budget in average bits per weight, codebooks and scales included.
        max_bytes: budget in bytes instead.
        settings: how much to search.
        seed: equal seeds give equal fronts.
        json: print the front's sizes and predictions as JSON.
    """
    loaded_ranker, loaded_bank = load_ranker(ranker), Bank.load(bank)
    with bar("Search") as progress:
        front = search_configs(
            loaded_ranker,
            loaded_bank,
            max_bits=max_bits,
            max_bytes=max_bytes,
            settings=settings,
            seed=seed,
            command=command_line(),
            progress=progress,
        )
    write_front(front, loaded_bank, Path(out), quality_label=f"predicted {loaded_ranker.target}")
    if json:
        print_json({"front": f"{out}/front.json", "members": _rows(front)})
    else:
        console.print(_table(front, loaded_ranker.target, out))


def write_front(front: Front, bank: Bank, folder: Path, *, quality_label: str) -> None:
    """Writes ``front.json``, ``best.json`` and ``front.png``."""
    front.save(folder / "front.json")
    best = front.best_index()
    config = config_to_json(
        front.configs[best],
        bank.layer_names,
        [str(option) for option in bank.options],
        bank.denoiser,
        bank.options_hash,
        predicted=_rows(front)[best],
        command=front.meta.command,
    )
    save_config(folder / "best.json", config)
    plot_front(front, folder / "front.png", quality_label=quality_label)


def _rows(front: Front) -> list[dict[str, float | int | None]]:
    return [
        {
            "bytes": int(front.num_bytes[index]),
            "avg_bits": float(front.avg_bits[index]),
            "predicted": float(front.predicted[index]),
            "spread": None if front.spread is None else float(front.spread[index]),
        }
        for index in range(len(front))
    ]


def _table(front: Front, target: str, out: str) -> Table:
    table = Table(title=f"{out}: {len(front)} configs, predicted (not measured); target {target}")
    for heading in ("average bits", "bytes", "predicted", "spread"):
        table.add_column(heading, justify="right")
    rows = _rows(front)
    for row in rows[:: max(1, len(rows) // 16)][:-1] + rows[-1:]:
        spread = "" if row["spread"] is None else f"{row['spread']:.3f}"
        table.add_row(f"{row['avg_bits']:.3f}", f"{row['bytes']:,}", f"{row['predicted']:.3f}", spread)
    return table


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(search, words)
