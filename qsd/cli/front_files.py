"""What a search writes: its front, the best of it, and a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from qsd.bank import Bank
from qsd.cli.found import rows_of
from qsd.configs.document import config_to_json, save_config
from qsd.search import Front, Points, plot_front
from qsd.support.folders import replacing

_NEAR_BITS = 0.01
"""Budgets in bits are one where they differ by less: a front keeps what its whole bytes amount to."""
_FILES = {"front.json", "best.json", "front.png", "front.svg"}


def facts_of(file: Path, max_bits: float | None) -> dict[str, Any]:
    """What an earlier search was about, as :func:`qsd.cli.overwriting.check_replaceable` compares it."""
    meta = Front.load(file).meta
    bits = meta.max_bits  # of the largest whole number of bytes within the budget
    near = bits is not None and max_bits is not None and 0 <= max_bits - bits < _NEAR_BITS
    plain = {"keep": {}, "at_least": {}, "couple": [], "format": "qsd", "objectives": [], "bounds": []}
    return {
        "denoiser": meta.denoiser,
        "ranker": meta.ranker,
        "method": meta.settings.get("method", "evolution"),
        "seed": meta.seed,
        "budget": max_bits if near else None if meta.max_bytes is None else f"{meta.max_bytes} bytes",
        **plain,
        **meta.settings.get("asked", {}),
    }


def write_front(
    front: Front, bank: Bank, folder: Path, *, quality_label: str, best: int | None = None
) -> None:
    """Writes the front, its best config and its picture, in place of earlier ones in one step."""
    best = front.best_index() if best is None else best
    config = config_to_json(
        front.configs[best],
        bank.layer_names,
        [str(option) for option in bank.options],
        bank.denoiser,
        bank.options_hash,
        predicted=rows_of(front)[best],
        measured=front.measured[best],
        command=front.meta.command,
    )
    with replacing(folder, _FILES.__contains__) as new:
        front.save(new / "front.json")
        save_config(new / "best.json", config)
        plot_front(front, new / "front.png", quality_label=quality_label, winners=_measured(front))


def _measured(front: Front) -> Points | None:
    """The members that were measured, with their 90 % intervals."""
    rows = {index: row for index, row in enumerate(front.measured) if row and "target" in row}
    if not rows:
        return None
    places, values = list(rows), [float(row["target"]) for row in rows.values()]
    highest = [
        row.get("target_interval", [0, value])[1] for row, value in zip(rows.values(), values, strict=True)
    ]
    return Points(front.avg_bits[places], values, np.subtract(highest, values))
