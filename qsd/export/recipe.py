"""Recipes: which type each layer gets, without the codes, for other checkpoints and other programs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.tracing import Traced
from qsd.denoisers.whole import trace_whole
from qsd.export.folder import RECIPE_FORMAT, RECIPE_NAME
from qsd.export.original import layout_of
from qsd.export.renderings import renderings
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
        measured: numbers of it, on the checkpoint of ``denoiser``.
        predicted: numbers of it, for that checkpoint.
    """

    format: Literal["qsd-recipe"]
    version: Literal[1]
    layers: dict[str, str]
    denoiser: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None
    predicted: dict[str, Any] | None = None
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
    layout = layout_of(denoiser, denoiser.state_dict())
    for name, text in renderings(_chosen(bank, config), layout).items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    written = sum(path.stat().st_size for path in folder.iterdir())
    nothing = dict.fromkeys(("header_bytes", "code_bytes", "codebook_bytes", "unquantized_bytes"), 0)
    full = sum(2 * parameter.numel() for parameter in denoiser.parameters())
    return {"num_bytes": written, "full_precision_bytes": full, **nothing}


def note_numbers(path: Path, document: Mapping[str, Any] | None) -> None:
    """Writes into a recipe what was measured and predicted for the checkpoint that it was found on."""
    numbers = {name: (document or {}).get(name) for name in ("measured", "predicted")}
    if path.is_file() and any(numbers.values()):
        recipe = {key: value for key, value in read_recipe(path).items() if key != "hash"}
        write_json(path, recipe | {name: found for name, found in numbers.items() if found})


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Reads a recipe, written by a program or by hand.

    Raises:
        QsdError: no such file, or something else.
    """
    return read_json(path, RECIPE_FORMAT, VERSION, RecipeSchema, hashed=False)


def apply_recipe(
    recipe: Mapping[str, Any],
    pipe: Any,
    source: str | Path = "recipe",
    *,
    denoiser: str | None = None,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Bank, np.ndarray]:
    """Quantizes another checkpoint of the same layers as a recipe says.

    Args:
        recipe: what :func:`read_recipe` returned.
        pipe: a pipeline, or its denoiser, at full precision.
        source: of the recipe, for messages.
        denoiser: name of the pipeline's component, where it has several.
        provenance: recorded in the bank.
        progress: called once per layer.

    Returns:
        A bank of no more options than the recipe names, and the config int8 [L].

    Raises:
        QsdError: a layer has no option or cannot take it, or an entry fits no layer.
    """
    module, traced = _traced(pipe, denoiser, recipe["layers"])
    texts = options_of(recipe["layers"], [layer.name for layer in traced.layers], source)
    try:
        parsed = {text: Option.parse(text) for text in dict.fromkeys(texts)}
    except QsdError as error:
        raise QsdError(f"{source}: {error}") from None
    options = tuple(dict.fromkeys(parsed.values()))
    for layer, text in zip(traced.layers, texts, strict=True):
        if not parsed[text].accepts(layer.shape):
            raise QsdError(
                f"{source}: layer '{layer.name}' of shape {layer.shape} cannot take '{text}'; give it another"
            )
    bank = build_bank(module, options, traced=traced, provenance=provenance, progress=progress)
    return bank, np.array([options.index(parsed[text]) for text in texts], dtype=np.int8)


def _traced(pipe: Any, denoiser: str | None, entries: Mapping[str, str]) -> tuple[nn.Module, Traced]:
    """The weight layers as a recipe names them: whole where its bank had the module-order graph."""
    found, failure = None, None
    try:
        found = trace_whole(pipe, denoiser=denoiser)
    except QsdError as error:
        failure = error
    if found and not any(layer.segment and layer.name not in entries for layer in found[1].layers):
        return found
    whole = trace_whole(pipe, denoiser=denoiser, graph="chain")
    if all(layer.name in entries for layer in whole[1].layers):
        return whole
    if found is None:
        assert failure is not None
        raise failure
    return found


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
