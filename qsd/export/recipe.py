"""Recipes: which type each layer gets, without the codes, for other checkpoints and other programs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.tracing import trace
from qsd.export.folder import RECIPE_FORMAT, RECIPE_NAME
from qsd.quantizers import Option
from qsd.support.documents import Schema, read_json, write_json
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

VERSION = 1
_KEEP = "keep"


class RecipeSchema(Schema):
    """What a recipe must hold.

    Attributes:
        layers: layer name, or regular expression of the whole name -> option. A name goes before expressions,
            an earlier expression before a later one.
        denoiser: identity of what the recipe was found on.
        provenance: versions and command.
    """

    format: Literal["qsd-recipe"]
    version: Literal[1]
    layers: dict[str, str]
    denoiser: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    hash: str | None = None


def recipe_of(bank: Bank, config: np.ndarray, provenance: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a config (int8 [L]); layers at full precision are ``keep``."""
    return {
        "format": RECIPE_FORMAT,
        "version": VERSION,
        "denoiser": bank.denoiser,
        "provenance": provenance,
        "layers": {layer.name: str(option) for layer, option in _chosen(bank, config)},
    }


def write_recipe(
    folder: Path,
    denoiser: Any,
    bank: Bank,
    config: np.ndarray,
    provenance: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, int]:
    """Writes a recipe and those of its renderings that lose nothing; returns sizes, none of tensors."""
    folder.mkdir()
    write_json(folder / RECIPE_NAME, recipe_of(bank, config, provenance))
    for name, text in renderings(bank, config).items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    written = sum(path.stat().st_size for path in folder.iterdir())
    nothing = dict.fromkeys(("header_bytes", "code_bytes", "codebook_bytes", "unquantized_bytes"), 0)
    full = sum(2 * parameter.numel() for parameter in denoiser.parameters())
    return {"num_bytes": written, "full_precision_bytes": full, **nothing}


def renderings(bank: Bank, config: np.ndarray) -> dict[str, str]:
    """The recipe as options of other programs, by file name; a program that lacks a type of it is left out.

    ``tensor-type-rules.txt`` follows ``--tensor-type-rules`` of stable-diffusion.cpp, ``tensor-type.txt`` has
    one ``--tensor-type`` of llama-quantize a line. Both speak of tensors by the names that diffusers gives
    them. ``sdnq.json`` has the arguments of sdnq's ``SDNQConfig`` that name modules.
    """
    chosen = _chosen(bank, config)
    if any(layer.segment for layer, _ in chosen):
        return {}
    held = frozenset.intersection(*(option.carriers for _, option in chosen))
    return (_gguf(chosen) if "gguf" in held else {}) | (_sdnq(chosen) if "sdnq" in held else {})


def sdnq_settings(option: Option) -> dict[str, Any]:
    """What sdnq calls an option of which :attr:`qsd.quantizers.Option.carriers` names it."""
    traits = option.traits
    if traits.grid == "float" and int(traits.bits) == 8:
        return {"weights_dtype": "float8_e4m3fn", "use_codebook": False, "group_size": -1}
    codebook = traits.grid != "uniform"
    return {
        "weights_dtype": f"uint{int(traits.bits)}",
        "use_codebook": codebook,
        "group_size": traits.group or (-2 if codebook and traits.scope == "tensor" else -1),
    }


def _sdnq(chosen: list[tuple[WeightLayer, Option]]) -> dict[str, str]:
    names = [(f"{layer.module}.weight", option) for layer, option in chosen]
    arguments = {
        "modules_to_not_convert": [name for name, option in names if option.traits.keep],
        "modules_quant_config": {
            name: sdnq_settings(option) for name, option in names if not option.traits.keep
        },
    }
    return {"sdnq.json": json.dumps(arguments, indent=2)}


def _gguf(chosen: list[tuple[WeightLayer, Option]]) -> dict[str, str]:
    rules = [f"{_pattern(layer)}={_ggml_name(option)}" for layer, option in chosen]
    return {
        "tensor-type-rules.txt": ",".join(rules),
        "tensor-type.txt": "\n".join(f"--tensor-type '{rule}'" for rule in rules),
    }


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Reads a recipe, written by a program or by hand.

    Raises:
        QsdError: no such file, or something else.
    """
    return read_json(path, RECIPE_FORMAT, VERSION, RecipeSchema, hashed=False)


def apply_recipe(
    recipe: Mapping[str, Any],
    denoiser: nn.Module,
    source: str | Path = "recipe",
    *,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Bank, np.ndarray]:
    """Quantizes another checkpoint of the same layers as a recipe says.

    Args:
        recipe: what :func:`read_recipe` returned.
        denoiser: at full precision.
        source: of the recipe, for messages.
        provenance: recorded in the bank.
        progress: called once per layer.

    Returns:
        A bank of no more options than the recipe names, and the config int8 [L].

    Raises:
        QsdError: a layer has no option or cannot take it, or an entry fits no layer.
    """
    traced = trace(denoiser)
    texts = options_of(recipe["layers"], [layer.name for layer in traced.layers], source)
    options = tuple(dict.fromkeys(Option.parse(text) for text in texts))
    for layer, text in zip(traced.layers, texts, strict=True):
        if not Option.parse(text).accepts(layer.shape):
            raise QsdError(
                f"{source}: layer '{layer.name}' of shape {layer.shape} cannot take '{text}'; give it another"
            )
    bank = build_bank(denoiser, options, traced=traced, provenance=provenance, progress=progress)
    return bank, np.array([options.index(Option.parse(text)) for text in texts], dtype=np.int8)


def options_of(entries: Mapping[str, str], names: list[str], source: str | Path) -> list[str]:
    """The option text that a recipe gives each layer.

    Raises:
        QsdError: as :func:`apply_recipe`; an entry is no regular expression.
    """
    found: list[str] = []
    used: set[str] = set()
    patterns = {entry: _compiled(entry, source) for entry in entries if entry not in names}
    for name in names:
        entry = name if name in entries else next((e for e, p in patterns.items() if p.fullmatch(name)), None)
        if entry is None:
            raise QsdError(f"{source}: layer '{name}' has no option; add it, or '.*' for all others")
        used |= {entry} | {other for other, pattern in patterns.items() if pattern.fullmatch(name)}
        found.append(entries[entry])
    unused = [entry for entry in entries if entry not in used]
    if unused:
        raise QsdError(
            f"{source}: '{unused[0]}' fits no layer of this denoiser; remove it or mend its spelling"
        )
    return found


def _compiled(entry: str, source: str | Path) -> re.Pattern[str]:
    try:
        return re.compile(entry)
    except re.error as error:
        raise QsdError(f"{source}: '{entry}' is no layer and no regular expression ({error})") from None


def _chosen(bank: Bank, config: np.ndarray) -> list[tuple[WeightLayer, Option]]:
    keep = Option.parse(_KEEP)
    return [
        (layer, keep if option == FULL_PRECISION else bank.options[option])
        for layer, option in zip(bank.layers, config, strict=True)
    ]


def _pattern(layer: WeightLayer) -> str:
    return rf"(^|\.){re.escape(layer.module)}\.weight$"


def _ggml_name(option: Option) -> str:
    return "f16" if option.traits.keep else str(option).replace("_k", "_K")
