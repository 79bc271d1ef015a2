"""What an export that stands in a folder was made of."""

from pathlib import Path
from typing import Any

from qsd.export.comfy import FILE_NAME as COMFY_FILE
from qsd.export.folder import CONFIG_NAME, RECIPE_NAME, is_export, is_recipe
from qsd.export.gguf import FILE_NAME as GGUF_FILE
from qsd.support.documents import parse_json, read_bounded

KEPT = "keep"
"""What a recipe calls a layer at full precision."""
_FILES = {GGUF_FILE: "gguf", COMFY_FILE: "comfy", CONFIG_NAME: "sdnq"}


def facts_of(out: Path) -> dict[str, Any]:
    """What decides the content of the exports in a folder, by name.

    Returns:
        ``config``: layer -> option, without layers at full precision; of several denoisers the layers with
        the name of theirs in front. ``format``. ``fine-tuning``: its settings, or None. ``rounding of
        activations``: how inputs are rounded, or None. Nothing if the folder holds no export.

    Raises:
        QsdError: a file of it is damaged.
    """
    parts = sorted(part for part in out.iterdir() if is_export(part) or is_recipe(part))
    facts: dict[str, Any] = {"config": {}} if parts else {}
    for part in parts:
        native = is_export(part)
        file = part / (CONFIG_NAME if native else RECIPE_NAME)
        entry = parse_json(read_bounded(file), file)
        entry = entry["quantization_config"] if native else entry
        prefix = f"{part.name}." if len(parts) > 1 else ""
        facts["config"] |= {
            f"{prefix}{name}": option for name, option in entry["layers"].items() if option != KEPT
        }
        facts["format"] = "qsd" if native else _format(part)
        facts["fine-tuning"] = entry.get("provenance", {}).get("finetune")
        facts["rounding of activations"] = entry.get("activations")
    return facts


def _format(part: Path) -> str:
    return next((name for file, name in _FILES.items() if (part / file).is_file()), "recipe")
