"""An explanation as CSV and JSON."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

from qsd.explain.explanation import Explanation, option_means, pair_rows, rows_of
from qsd.support.documents import write_json
from qsd.support.files import atomic

_PAIRS = 50


def to_json(explanation: Explanation) -> dict[str, Any]:
    """The JSON form: how it was made, groups, options, pairs, modules, and a row per layer and option."""
    adding, cancelling = explanation.pairs(_PAIRS)
    names = [layer.name for layer in explanation.header.layers]
    options = [str(option) for option in explanation.header.options]
    modules = [
        {
            "layers": [names[layer] for layer in module.layers],
            "best": [options[option] for option in module.options[int(module.score.argmax())]],
            "best_score": float(module.score.max()),
            "worst": [options[option] for option in module.options[int(module.score.argmin())]],
            "worst_score": float(module.score.min()),
        }
        for module in explanation.modules
    ]
    return {
        "format": "qsd-explanation",
        "version": 1,
        "denoiser": explanation.header.denoiser,
        "around": explanation.around,
        "score": explanation.score.name,
        "source": explanation.score.source,
        "reference": explanation.reference,
        "groups": {
            kind: [dataclasses.asdict(group) for group in groups]
            for kind, groups in explanation.groups.items()
        },
        "options": option_means(explanation),
        "adding": pair_rows(explanation, adding),
        "cancelling": pair_rows(explanation, cancelling),
        "modules": modules,
        "layers": rows_of(explanation),
    }


def write(explanation: Explanation, folder: str | Path) -> list[Path]:
    """Writes ``explanation.json`` and ``layers.csv`` into a folder, and returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "explanation.json", to_json(explanation))
    rows = rows_of(explanation)
    with atomic(folder / "layers.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [folder / "explanation.json", folder / "layers.csv"]
