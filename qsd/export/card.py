"""The model card of an export: ``README.md`` as model hubs show it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsd.bank import FULL_PRECISION, Bank
from qsd.bank.carried import Carried

CARD_NAME = "README.md"
_HUB_ID = 2


def model_card(
    bank: Bank,
    config: np.ndarray,
    sizes: Mapping[str, float],
    *,
    title: str,
    about: str,
    loading: Sequence[str],
    document: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    carried: Carried | None = None,
) -> str:
    """The text of a card, in Markdown with the YAML head that hubs read.

    Args:
        bank: of the denoiser.
        config: int8 [L], the option of each layer, or ``FULL_PRECISION``.
        sizes: what it is called -> number, for the table at the top.
        title: of the page.
        about: what the export is, in a sentence.
        loading: lines of Python that open the export.
        document: the config's document; what it says was measured and predicted is told.
        provenance: versions of the software under ``versions``. Commands are left out: they name paths.
        base_model: hub id of what was quantized.
        carried: how inputs of layers are rounded.
    """
    head = ["---", "library_name: diffusers", "tags:", "- qsd", "- quantized"]
    if base_model is not None:
        head += [f"base_model: {base_model}", "base_model_relation: quantized"]
    sections = [
        [*head, "---"],
        [f"# {title}"],
        [f"{about} The license is that of the model that was quantized."],
        _table(("size", "value"), [(name, _number(value)) for name, value in sizes.items()]),
        ["## Layers by role"],
        _roles(bank, config),
        *_activations(carried),
        *_numbers("Measured", "with the seeds and counts given", (document or {}).get("measured")),
        *_numbers("Predicted", "by a ranker, not measured", (document or {}).get("predicted")),
        ["## How to load", "", "```python", *loading, "```"],
        ["## Provenance"],
        _table(("of", "value"), _origins(bank, provenance or {})),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def add_to_card(folder: Path, title: str, text: str) -> None:
    """Tells in the card of an export, if it has one, what was done to it afterwards."""
    path = folder / CARD_NAME
    if path.is_file():
        path.write_text(f"{path.read_text(encoding='utf-8')}\n## {title}\n\n{text}\n", encoding="utf-8")


def base_model_of(pipe_or_denoiser: Any) -> str | None:
    """The hub id that a model was loaded from; None if it came from a folder of this machine."""
    name = getattr(pipe_or_denoiser, "name_or_path", None) or getattr(
        getattr(pipe_or_denoiser, "config", None), "_name_or_path", None
    )
    if not isinstance(name, str) or len(name.split("/")) != _HUB_ID or not all(name.split("/")):
        return None
    return None if Path(name).exists() or name.startswith((".", "~")) else name


def _roles(bank: Bank, config: np.ndarray) -> list[str]:
    """A row per role: layers, weights, bits per weight and the options in it."""
    rows = []
    for role in dict.fromkeys(layer.role for layer in bank.layers):
        places = [index for index, layer in enumerate(bank.layers) if layer.role == role]
        weights = sum(bank.layers[index].num_weights for index in places)
        bits = 8 * sum(_num_bytes(bank, index, int(config[index])) for index in places) / weights
        used = Counter(_name(bank, int(config[index])) for index in places)
        options = ", ".join(f"{name} ({count})" for name, count in sorted(used.items()))
        rows.append((role, str(len(places)), f"{weights:,}", f"{bits:.2f}", options))
    return _table(("role", "layers", "weights", "bits per weight", "types (layers)"), rows)


def _activations(carried: Carried | None) -> list[list[str]]:
    """How many layers round their input by which option, in which steps."""
    if carried is None:
        return []
    rows = []
    for steps, vector in zip(carried.ranges or (None,), carried.vectors, strict=True):
        used = Counter(str(carried.options[index]) for index in vector)
        options = ", ".join(f"{name} ({count})" for name, count in sorted(used.items()))
        rows.append(("all" if steps is None else f"{steps[0]} to {steps[1] - 1}", options))
    told = (
        "Inputs of layers are rounded in simulation: values lie on grids of few bits, and are computed with "
    )
    told += "in floating point. That shows what hardware of few bits would draw, and is not faster."
    return [["## Activations"], [told], _table(("sampling steps", "bits (layers)"), rows)]


def _num_bytes(bank: Bank, index: int, option: int) -> int:
    weight = None if option == FULL_PRECISION else bank.weights[index][option]
    return 2 * bank.layers[index].num_weights if weight is None else weight.num_bytes


def _name(bank: Bank, option: int) -> str:
    return "full precision" if option == FULL_PRECISION else str(bank.options[option])


def _numbers(title: str, how: str, values: Any) -> list[list[str]]:
    if not isinstance(values, Mapping) or not values:
        return []
    rows = [(str(name), _number(value)) for name, value in values.items() if value is not None]
    return [[f"## {title}"], [f"{title} {how}."], _table(("of", "value"), rows)]


def _number(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return ", ".join(map(_number, value))
    return json.dumps(value)


def _origins(bank: Bank, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    denoiser = {
        name: value for name, value in bank.denoiser.items() if isinstance(value, str) and "/" not in value
    }
    versions = provenance.get("versions")
    return [
        *(
            (f"quantized denoiser: {name.replace('_', ' ')}", f"`{value}`")
            for name, value in denoiser.items()
        ),
        ("option table", f"`{bank.options_hash}`"),
        *((f"version of {name}", str(value)) for name, value in (versions or {}).items()),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
