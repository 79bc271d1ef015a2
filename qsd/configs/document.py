"""Configs on disk: JSON that names the option of every layer, and the checks that reading one needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict

from qsd.denoisers.identity import check_same_denoiser
from qsd.support.documents import Schema, read_json, write_json
from qsd.support.errors import QsdError

CONFIG_FORMAT = "qsd-config"
CONFIG_VERSION = 1


class ConfigSchema(Schema):
    """What a config document must hold. Further entries say where it comes from."""

    model_config = ConfigDict(extra="allow")

    format: Literal["qsd-config"]
    version: Literal[1]
    denoiser: dict[str, Any] | None = None
    options_hash: str | None = None
    layers: dict[str, Any] | None = None  # what is wrong in it has messages of its own


def config_to_json(
    config: np.ndarray,
    layer_names: Sequence[str],
    option_names: Sequence[str],
    denoiser: Mapping[str, Any],
    options_hash: str,
    **extra: Any,
) -> dict[str, Any]:
    """The JSON form of a config.

    Args:
        config: int8 [L].
        layer_names: L names, bank order.
        option_names: O texts such as `uaq-4`, in the order of the option table.
        denoiser: Identity of the denoiser that the config is for.
        options_hash: Hash of the option table, for the record; loading goes by option text.
        **extra: Further JSON entries (predicted and measured numbers, the command, ...).
    """
    return {
        "format": CONFIG_FORMAT,
        "version": CONFIG_VERSION,
        "denoiser": dict(denoiser),
        "options_hash": options_hash,
        **extra,
        "layers": layers_to_json(config, layer_names, option_names),
    }


def config_from_json(
    document: Mapping[str, Any],
    layer_names: Sequence[str],
    option_names: Sequence[str],
    denoiser: Mapping[str, Any] | None = None,
    source: str | Path = "config",
) -> np.ndarray:
    """The config of a JSON document.

    Args:
        document: What `config_to_json` returned.
        layer_names: L names, bank order, that the config must cover exactly.
        option_names: O texts of the option table at hand.
        denoiser: Identity that the config must carry; None does not check it.
        source: File name for error messages.

    Returns:
        int8 [L].

    Raises:
        QsdError: Another denoiser's config, an unknown or missing layer, or an unknown option.
    """
    if denoiser is not None:
        check_same_denoiser(dict(denoiser), document.get("denoiser") or {}, source)
    return layers_from_json(document.get("layers"), layer_names, option_names, source)


def save_config(path: str | Path, document: Mapping[str, Any]) -> None:
    """Writes what `config_to_json` returned, atomically."""
    write_json(path, document)


def load_config(
    path: str | Path,
    layer_names: Sequence[str],
    option_names: Sequence[str],
    denoiser: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Reads a config file; arguments, result and errors as `config_from_json`."""
    return config_from_json(load_document(path), layer_names, option_names, denoiser, path)


def load_document(path: str | Path) -> dict[str, Any]:
    """Reads the JSON document of a config.

    Raises:
        QsdError: no such file, or something else.
    """
    return read_json(path, CONFIG_FORMAT, CONFIG_VERSION, ConfigSchema, hashed=False)


def layers_to_json(
    config: np.ndarray, layer_names: Sequence[str], option_names: Sequence[str]
) -> dict[str, str]:
    """Layer name -> option text of a config (int8 [L]), in bank order."""
    return {name: option_names[int(option)] for name, option in zip(layer_names, config, strict=True)}


def layers_from_json(
    layers: Any, layer_names: Sequence[str], option_names: Sequence[str], source: str | Path
) -> np.ndarray:
    """The inverse of `layers_to_json`: int8 [L], or QsdError naming the file, the layer and the remedy."""
    if not isinstance(layers, Mapping):
        raise QsdError(f"{source}: has no 'layers' entry; make the config again with this qsd")
    unknown = sorted(layers.keys() - set(layer_names))
    if unknown:
        raise QsdError(
            f"{source}: layer '{unknown[0]}'{_and_others(unknown)} is not in this denoiser; "
            f"remove it or use the denoiser that the config was made for"
        )
    missing = [name for name in layer_names if name not in layers]
    if missing:
        raise QsdError(
            f"{source}: layer '{missing[0]}'{_and_others(missing)} has no option; "
            f"add it with one of {', '.join(option_names)}"
        )
    index_of = {name: index for index, name in enumerate(option_names)}
    config = np.empty(len(layer_names), dtype=np.int8)
    for position, name in enumerate(layer_names):
        text = layers[name]
        if not isinstance(text, str) or text not in index_of:
            raise QsdError(
                f"{source}: layer '{name}' has the unknown option {text!r}; "
                f"use one of {', '.join(option_names)}"
            )
        config[position] = index_of[text]
    return config


def _and_others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
