"""Arguments of a denoiser's forward on disk: a JSON document, and a safetensors file for its tensors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qsd.support.documents import read_json, write_json
from qsd.support.errors import QsdError
from qsd.support.tensors import TensorFile, open_tensors, save_tensors

FORMAT = "qsd-inputs"
VERSION = 1
_TENSOR, _TUPLE, _DICT = "tensor", "tuple", "dict"
_REMEDY = "write the pair again with qsd.save_inputs"


def save_inputs(inputs: Mapping[str, Any], path: str | Path) -> None:
    """Writes keyword arguments as ``path`` (JSON) and a safetensors file of the same name beside it.

    The document names the hash of the safetensors file's description, so two pairs cannot be mixed.

    Args:
        inputs: argument name -> tensor, number, text, None, or lists, tuples and dicts of such.
        path: file to write, ending in ``.json``.

    Raises:
        QsdError: the name ends otherwise, or an argument is of another kind.
    """
    path = _document(path)
    tensors: dict[str, torch.Tensor] = {}
    arguments = {name: _to_json(value, name, tensors) for name, value in inputs.items()}
    named = {name: tensor.clone() for name, tensor in tensors.items()}  # views of one storage are refused
    mark = save_tensors(path.with_suffix(".safetensors"), named, {"format": FORMAT, "version": VERSION})
    write_json(path, {"format": FORMAT, "version": VERSION, "arguments": arguments, "tensors": mark})


def load_inputs(path: str | Path) -> dict[str, Any]:
    """Reads what :func:`save_inputs` wrote; tensors on the CPU.

    Raises:
        QsdError: a file is missing, damaged, of another sort or of another pair.
    """
    path = _document(path)
    document = read_json(path, FORMAT, VERSION, remedy=_REMEDY)
    arguments, beside = document.get("arguments"), path.with_suffix(".safetensors")
    if not isinstance(arguments, dict):
        raise QsdError(f"{path}: has no arguments; {_REMEDY}")
    with open_tensors(beside, {FORMAT: 1}, _REMEDY) as file:
        if file.meta["hash"] != document.get("tensors"):
            raise QsdError(f"{beside}: written with another document than {path.name}; {_REMEDY}")
        return {name: _from_json(value, file) for name, value in arguments.items()}


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
        return {_DICT: {str(key): _to_json(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        items = [_to_json(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | str) or _is_finite(value):
        return value
    raise QsdError(f"argument {name!r} is a {type(value).__name__}, which no inputs file holds; leave it out")


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _from_json(value: Any, file: TensorFile) -> Any:
    if isinstance(value, list):
        return [_from_json(item, file) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()), ("", None))
    if len(value) == 1 and kind == _TENSOR and isinstance(content, str):
        return file.tensor(content)
    if len(value) == 1 and kind == _TUPLE and isinstance(content, list):
        return tuple(_from_json(item, file) for item in content)
    if len(value) == 1 and kind == _DICT and isinstance(content, dict):
        return {key: _from_json(item, file) for key, item in content.items()}
    raise QsdError(f"{file.path}: argument of an unknown kind {str(kind)[:20]!r}; {_REMEDY}")
