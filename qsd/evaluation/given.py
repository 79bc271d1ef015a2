"""Arguments of a pipeline's call that lie in files: a tensor or a picture for each image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from qsd.denoisers.pictured import TENSORS, is_in_files
from qsd.evaluation.pictures import open_pictures, pictures_hash
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find
from qsd.support.tensors import tensor_hash


def load_given(
    pipe: Any, call: Mapping[str, Any], count: int, num_frames: int | None = None
) -> dict[str, torch.Tensor | list[Any]]:
    """The arguments of ``call`` that lie in files, one row for each image.

    Args:
        pipe: the pipeline, whose dtype and device floating-point tensors are brought to.
        call: arguments by name. A safetensors file has a tensor of the argument's name, or one alone, with a
            row for each image; a folder has pictures, in the order of their names.
        count: how many images are drawn.
        num_frames: of what is drawn, if it is chosen.

    Raises:
        QsdError: a file or a folder is missing, unreadable or has too few rows or pictures.
    """
    given: dict[str, torch.Tensor | list[Any]] = {}
    for argument, value in call.items():
        if not is_in_files(argument, value):
            continue
        if value.endswith(TENSORS):
            tensor = _tensor(argument, value, count)
            given[argument] = tensor.to(pipe.dtype) if tensor.is_floating_point() else tensor
        else:
            given[argument] = open_pictures(pipe, argument, value, count, num_frames)
    return given


def by_content(call: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The arguments of ``call``, in which hashes of the rows that are drawn from stand for files."""
    return {
        argument: value
        if not is_in_files(argument, value)
        else tensor_hash(_tensor(argument, value, count))
        if value.endswith(TENSORS)
        else pictures_hash(value, count)
        for argument, value in call.items()
    }


def _tensor(argument: str, value: str, count: int) -> torch.Tensor:
    """The first rows of a tensor in a file."""
    path: Path = find(value)
    try:
        with safe_open(path, framework="pt") as file:
            names = [*file.keys()]
            name = argument if argument in names else names[0] if len(names) == 1 else None
            tensor = None if name is None else file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise QsdError(f"call: {value}: no safetensors file ({first_line(error)}); write it again") from error
    if tensor is None:
        raise QsdError(
            f"call: {value}: has no tensor {argument!r} but {', '.join(names) or 'none'}; write it again as "
            f"safetensors.torch.save_file({{{argument!r}: rows}}, {path.name!r})"
        )
    if tensor.ndim < 2 or len(tensor) < count:
        rows = len(tensor) if tensor.ndim > 1 else 0
        raise QsdError(f"call: {value}: {rows} rows for {count} images; lower num_images or add rows")
    return tensor[:count].contiguous()
