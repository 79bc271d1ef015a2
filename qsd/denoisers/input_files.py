"""Arguments of a denoiser's forward on disk: a JSON document, and a safetensors file for its tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qsd.support.errors import QsdError, first_line
from qsd.support.files import atomic

FORMAT = "qsd-inputs"
_TENSOR, _TUPLE = "tensor", "tuple"


def save_inputs(inputs: Mapping[str, Any], path: str | Path) -> None:
    """Writes keyword arguments as ``path`` (JSON) and a safetensors file of the same name beside it.

    Args:
        inputs: argument name -> tensor, number, text, None, or lists, tuples and dicts of such.
        path: file to write, ending in ``.json``.

    Raises:
        QsdError: the name ends otherwise, or an argument is of another kind.
    """
    path = _document(path)
    tensors: dict[str, torch.Tensor] = {}
    document = {name: _to_json(value, name, tensors) for name, value in inputs.items()}
    with atomic(path.with_suffix(".safetensors")) as temporary:
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, temporary)
    with atomic(path) as temporary:
        text = json.dumps({"format": FORMAT, "arguments": document}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def load_inputs(path: str | Path) -> dict[str, Any]:
    """Reads what :func:`save_inputs` wrote; tensors on the CPU.

    Raises:
        QsdError: a file is missing, damaged or of another sort.
    """
    path = _document(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        arguments = document["arguments"] if document.get("format") == FORMAT else None
        if not isinstance(arguments, dict):
            raise QsdError(f"{path}: no inputs of a denoiser; write them with qsd.save_inputs")
        tensors = load_file(path.with_suffix(".safetensors"))
        return {name: _from_json(value, tensors) for name, value in arguments.items()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, QsdError):
            raise
        raise QsdError(
            f"{path}: missing or damaged ({first_line(error)}); write the pair again with qsd.save_inputs"
        ) from error


def _document(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise QsdError(f"{path}: inputs are a JSON file and a safetensors file beside it; name the .json")
    return path


def _to_json(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"dict": {key: _to_json(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        items = [_to_json(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise QsdError(f"argument {name!r} is a {type(value).__name__}, which no inputs file holds; leave it out")


def _from_json(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == _TENSOR:
        return tensors[content]
    if kind == _TUPLE:
        return tuple(_from_json(item, tensors) for item in content)
    return {key: _from_json(item, tensors) for key, item in content.items()}
