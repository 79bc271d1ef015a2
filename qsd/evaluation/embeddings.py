"""Encoded prompts on disk, so that a text encoder is loaded for each list of prompts once.

They lie in the folder of :func:`qsd.support.user_cache.user_cache` under a hash of everything that decides
them: prompts, how they are encoded, the files of text encoders and tokenizers, the type, and the versions of
the libraries. Whatever lies there may be deleted at any time.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qsd.denoisers.encoders import Withheld, attach, attached, detach, withheld
from qsd.denoisers.identity import component_identity
from qsd.support.documents import read_json, write_json
from qsd.support.errors import QsdError
from qsd.support.hashing import file_hash, json_hash
from qsd.support.tensors import open_tensors, save_tensors
from qsd.support.user_cache import user_cache

_EMBEDDINGS, _ENCODER, _VERSION = "qsd-embeddings", "qsd-encoder", 1
_REMEDY = "delete it"

Encoded = dict[str, torch.Tensor]


def encoded(pipe: Any, how: dict[str, Any], encode: Callable[[], Encoded]) -> Encoded:
    """What a pipeline's text encoders make of prompts.

    Args:
        pipe: a pipeline; one that was opened without its text encoders gets them for the encoding alone, and
            only if no earlier run noted the result.
        how: the prompts, and everything that the caller chose.
        encode: encodes with the text encoders in the pipeline.

    Returns:
        Tensors on the CPU, by argument of the pipeline's call.
    """
    missing = withheld(pipe)
    if missing is None:
        return encode()
    key = json_hash(
        {
            "how": how,
            "pipeline": type(pipe).__name__,
            "files": {name: _files_hash(missing.folder / name) for name in _read_by_encoding(missing)},
            "dtype": str(missing.dtype),
            "device": pipe.device.type,
            "versions": {
                name: importlib.metadata.version(name) for name in ("torch", "transformers", "diffusers")
            },
        }
    )
    path = user_cache() / "embeddings" / f"{key}.safetensors"
    try:
        with open_tensors(path, {_EMBEDDINGS: _VERSION}, _REMEDY) as file:
            found = {name: file.tensor(name).clone() for name in file.names}
        detach(pipe)
        return found
    except QsdError:  # not there, or damaged
        pass
    with attached(pipe):
        found = encode()
    save_tensors(path, found, {"format": _EMBEDDINGS, "version": _VERSION})
    return found


def encoder_identities(pipe: Any) -> dict[str, dict[str, str]]:
    """Identities of the text encoders that a pipeline was opened without, by component name.

    Where no earlier run noted them, the encoders are loaded and stay until prompts were encoded.
    """
    missing = withheld(pipe)
    return {} if missing is None else {name: _identity(pipe, missing, name) for name in missing.names}


def _identity(pipe: Any, missing: Withheld, name: str) -> dict[str, str]:
    key = json_hash([_files_hash(missing.folder / name), str(missing.dtype), missing.variant])
    path = user_cache() / "encoders" / f"{key}.json"
    try:
        noted: dict[str, str] = read_json(path, _ENCODER, _VERSION)["identity"]
    except (QsdError, KeyError):
        attach(pipe)
        noted = component_identity(getattr(pipe, name))
        write_json(path, {"format": _ENCODER, "version": _VERSION, "identity": noted})
    return noted


def _read_by_encoding(missing: Withheld) -> list[str]:
    tokenizers = [path.name for path in sorted(missing.folder.glob("tokenizer*")) if path.is_dir()]
    return [*missing.names, *tokenizers]


def _files_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return json_hash({str(path.relative_to(folder)): file_hash(path) for path in files})
