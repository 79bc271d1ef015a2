"""What an export that stands in a folder was made of."""

from pathlib import Path
from typing import Any

from qsd.export.comfy import FILE_NAME as COMFY_FILE
from qsd.export.folder import CONFIG_NAME, RECIPE_NAME, is_export, is_recipe
from qsd.export.gguf import FILE_NAME as GGUF_FILE
from qsd.export.recipe import read_recipe
from qsd.export.shards import read_config
from qsd.runtime.manifest import Manifest

KEPT = "keep"
"""What a recipe calls a layer at full precision."""
_FILES = {GGUF_FILE: "gguf", COMFY_FILE: "comfy", CONFIG_NAME: "sdnq"}


def parts_of(out: Path) -> list[Path]:
    """Folders of the denoisers that were exported to a folder, in whatever format."""
    if not out.is_dir():
        return []
    return sorted(part for part in out.iterdir() if is_export(part) or is_recipe(part))


def facts_of(out: Path) -> dict[str, Any]:
    """What decides the content of the exports in a folder, by name.

    Returns:
        ``config``: layer -> option, without layers at full precision; of several denoisers the layers with
        the name of theirs in front. ``denoiser``: its identity. ``format``. ``fine-tuning``: its settings,
        or None. ``rounding of activations``: how inputs are rounded, or None.

    Raises:
        QsdError: a file of it is damaged.
    """
    parts = parts_of(out)
    facts: dict[str, Any] = {"config": {}}
    for part in parts:
        if is_export(part):
            manifest = Manifest.from_dict(dict(read_config(part)["quantization_config"]))
            assert isinstance(manifest, Manifest)
            entry, format = vars(manifest), "qsd"
        else:
            entry, format = read_recipe(part / RECIPE_NAME), _format(part)
        prefix = f"{part.name}." if len(parts) > 1 else ""
        facts["config"] |= {
            f"{prefix}{name}": option for name, option in entry["layers"].items() if option != KEPT
        }
        facts["denoiser"], facts["format"] = entry.get("denoiser"), format
        facts["fine-tuning"] = (entry.get("provenance") or {}).get("finetune")
        facts["rounding of activations"] = entry.get("activations")
    return facts


def _format(part: Path) -> str:
    return next((name for file, name in _FILES.items() if (part / file).is_file()), "recipe")
