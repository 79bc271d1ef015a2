"""``gguf`` files: block types that ComfyUI-GGUF, stable-diffusion.cpp and diffusers read."""

import dataclasses
import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsd.bank import Bank
from qsd.export.folder import CONFIG_NAME, RECIPE_NAME, without_paths, write_json
from qsd.export.original import Original, layout_of
from qsd.export.recipe import recipe_of
from qsd.export.weights import Part, quantized_modules, refuse, spelled
from qsd.support.documents import write_json as write_document
from qsd.support.errors import QsdError

NAME = "gguf"
FILE_NAME = "model.gguf"
_MOST_DIMENSIONS = 4


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of the file.

    Attributes:
        kind: name of its GGML type.
        values: uint8 blocks [O, bytes] of a block type, or numbers.
    """

    kind: str
    values: np.ndarray


def write_gguf(
    folder: Path,
    denoiser: Any,
    bank: Bank,
    config: np.ndarray,
    provenance: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, int]:
    """Writes ``model.gguf``, the denoiser's config.json and the recipe; returns the sizes of an export.

    Tensors of one dimension, parameters that are no weights, and buffers have 32 bits; other numbers 16, or
    32 where 16 would lose something. A program that knows the class finds the names and the order of rows of
    its original checkpoint. Weights that modules share are stored once for each.

    Raises:
        QsdError: GGUF cannot hold a layer exactly, or the package gguf is not installed.
    """
    library = _library()
    state = {key: tensor.detach().cpu() for key, tensor in denoiser.state_dict().items()}
    full = sum(tensor.numel() * min(tensor.element_size(), 2) for tensor in state.values())
    modules = quantized_modules(bank, config)
    found = {key: _number(key, tensor) for key, tensor in state.items()}
    refused: list[str] = []
    for module, parts in modules.items():
        stored = _stored(module, parts)
        if stored is None:
            refused += spelled(parts)
            continue
        for path in (module, *parts[0][0].tied):
            found[f"{path}.weight"] = stored
    refused += [f"{key} ({each.values.ndim} dimensions)" for key, each in found.items() if _too_deep(each)]
    refuse(NAME, refused, "use GGUF types, the same for all parts of a weight")
    layout = layout_of(denoiser, found)
    tensors = {each.name: _joined(each, found, modules) for each in layout.tensors}
    folder.mkdir()
    writer = library.GGUFWriter(folder / FILE_NAME, layout.architecture)
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_file_type(_file_type(library, tensors))
    for name, each in tensors.items():
        writer.add_tensor(name, each.values, raw_dtype=library.GGMLQuantizationType[each.kind])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except OSError as error:  # numpy tells how much it wrote, and no number of an error
        raise OSError(error.errno or errno.ENOSPC, os.strerror(error.errno or errno.ENOSPC)) from error
    write_json(folder / CONFIG_NAME, without_paths(json.loads(denoiser.to_json_string())))
    write_document(folder / RECIPE_NAME, recipe_of(bank, config, provenance))
    size = (folder / FILE_NAME).stat().st_size
    codes = sum(each.values.nbytes for each in tensors.values() if _is_block(each))
    rest = sum(each.values.nbytes for each in tensors.values()) - codes
    return {
        "num_bytes": size,
        "header_bytes": size - codes - rest,
        "code_bytes": codes,
        "codebook_bytes": 0,
        "unquantized_bytes": rest,
        "full_precision_bytes": full,
    }


def _stored(module: str, parts: list[Part]) -> Stored | None:
    """A weight in one GGML type; None if there is none that is the same numbers."""
    options = {str(weight.option) for _, weight in parts}
    option = parts[0][1].option
    if len(options) > 1 or NAME not in option.carriers:
        return None
    if option.traits.keep:
        return _number(f"{module}.weight", torch.cat([weight.dequantize() for _, weight in parts], dim=1))
    blocks = torch.cat([weight.stored["blocks"].cpu() for _, weight in parts], dim=1)
    return Stored(str(option).upper(), blocks.numpy())


def _number(key: str, tensor: Tensor) -> Stored:
    """A tensor in 16 bits where it may and nothing is lost, else in 32."""
    values = tensor.float().contiguous()
    if values.ndim > 1 and key.endswith(".weight") and torch.equal(values.half().float(), values):
        return Stored("F16", values.half().numpy())
    return Stored("F32", values.numpy())


def _joined(original: Original, found: dict[str, Stored], modules: dict[str, list[Part]]) -> Stored:
    """A tensor of the file, of one or more of the denoiser's.

    Raises:
        QsdError: they have different types.
    """
    parts = [found[key] for key in original.keys]
    kinds = {part.kind for part in parts}
    if kinds == {"F16", "F32"}:
        parts = [Stored("F32", part.values.astype(np.float32)) for part in parts]
    elif len(kinds) > 1:
        layers = [
            text
            for key in original.keys
            for text in spelled(modules.get(key.removesuffix(".weight"), [])) or [key]
        ]
        raise QsdError(
            f"gguf: {', '.join(layers)} are one tensor '{original.name}' in the original checkpoint and "
            "have one type there; give them one option (`qsd search --couple qkv`)"
        )
    values = np.concatenate([part.values for part in parts]) if len(parts) > 1 else parts[0].values
    if original.swapped:
        values = np.concatenate(np.split(values, 2)[::-1])
    return Stored(parts[0].kind, values)


def _is_block(stored: Stored) -> bool:
    return stored.values.dtype == np.uint8


def _too_deep(stored: Stored) -> bool:
    return stored.values.ndim > _MOST_DIMENSIONS


def _file_type(library: Any, tensors: dict[str, Stored]) -> int:
    """The type that most quantized bytes have, as files of llama.cpp name it."""
    sizes: Counter[str] = Counter()
    for each in tensors.values():
        sizes[each.kind] += each.values.nbytes if _is_block(each) else 0
    kind = sizes.most_common(1)[0][0] if any(sizes.values()) else "F16"
    known = library.LlamaFileType
    names = (f"MOSTLY_{kind}", f"MOSTLY_{kind}_S")
    return int(next((known[name] for name in names if name in known.__members__), known.GUESSED))


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise QsdError(
            "GGUF files need the package gguf, which is not installed: pip install 'qsd[gguf]'"
        ) from None
    return gguf
