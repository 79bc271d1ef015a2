"""``comfy`` files: safetensors whose quantized layers ComfyUI computes with, as comfy-kitchen stores them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from qsd.bank import Bank
from qsd.export.folder import RECIPE_NAME
from qsd.export.native import narrowest, num_bytes
from qsd.export.original import Original, layout_of
from qsd.export.recipe import recipe_of
from qsd.export.weights import Part, quantized_modules, refuse, spelled
from qsd.quantizers import QuantizedWeight
from qsd.quantizers.packing import unpack
from qsd.quantizers.schemes.w4a8 import GROUP, codebook, rotation_block
from qsd.support.documents import write_json
from qsd.support.errors import QsdError

NAME = "comfy"
FILE_NAME = "diffusion_model.safetensors"
_BOOK = "_codebook"
_WEIGHTS_ONLY = {"full_precision_matrix_mult": True}
"""Inputs stay in 16 bits, as where the config was measured."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A weight as comfy-kitchen's layouts have it.

    Attributes:
        settings: of the layer; empty where it is not quantized.
        tensors: what is appended to the name of the weight -> rows, or a number that all of them share.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def comfy_weight(weight: QuantizedWeight) -> Stored | None:
    """A matrix in a layout of comfy-kitchen; None if it has none for the same numbers."""
    if NAME not in weight.option.carriers or len(weight.shape) != 2:
        return None
    stored = {name: tensor.cpu() for name, tensor in weight.stored.items()}
    if "codes" in stored:
        grid = weight.option.grid(stored, weight.shape[0])
        assert grid is not None, "the scheme that names comfy says so"
        codes = unpack(stored["codes"], 8, weight.numel).view(weight.shape).short()
        centred = (codes - grid[1].short()[:, None]).to(torch.int8)
        return Stored({"format": "int8_tensorwise"}, {"": centred, "_scale": grid[0].float()[:, None]})
    if "nibbles" in stored:
        settings = {
            "format": "asym_w4a8_int8",
            "group_size": GROUP,
            "convrot_groupsize": rotation_block(weight.shape[1]),
        }
        parts = {f"_{name}": stored[name] for name in ("s_rel", "s_channel")}
        return Stored(settings, {"": stored["nibbles"], **parts, _BOOK: codebook()})
    return Stored({"format": "float8_e4m3fn"}, {"": stored["weight"], "_scale": stored["scale"].view(())})


def write_comfy(
    folder: Path,
    denoiser: Any,
    bank: Bank,
    config: np.ndarray,
    provenance: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, int]:
    """Writes ``diffusion_model.safetensors`` and the recipe; returns the sizes of an export.

    Names and order of rows are those of the original checkpoint where the class is known, else diffusers'.
    Weights that modules share are stored once for each.

    Raises:
        QsdError: ComfyUI cannot hold a layer exactly.
    """
    state = {key: narrowest(tensor) for key, tensor in denoiser.state_dict().items()}
    full = sum(tensor.numel() * min(tensor.element_size(), 2) for tensor in state.values())
    modules = quantized_modules(bank, config)
    found = {key: Stored({}, {"": tensor}) for key, tensor in state.items()}
    refused: list[str] = []
    for module, parts in modules.items():
        stored = _stored(parts)
        if stored is None:
            refused += spelled(parts)
            continue
        for path in (module, *parts[0][0].tied):
            found[f"{path}.weight"] = stored
    refuse(NAME, refused, "use int8, w4a8 or fp8_e4m3 for whole linear layers and keep for others")
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    quantized: set[str] = set()
    for original in layout_of(denoiser, found).tensors:
        joined = _joined(original, found, modules)
        tensors |= {f"{original.name}{suffix}": tensor for suffix, tensor in joined.tensors.items()}
        if joined.settings:
            layer = original.name.removesuffix(".weight")
            layers[layer] = joined.settings | _WEIGHTS_ONLY
            quantized |= {f"{original.name}{suffix}" for suffix in joined.tensors}
            text = json.dumps(layers[layer]).encode()
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    folder.mkdir()
    metadata = {
        "format": "pt",
        "_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers}),
    }
    save_file(tensors, folder / FILE_NAME, metadata=metadata)
    write_json(folder / RECIPE_NAME, recipe_of(bank, config, provenance))
    size = (folder / FILE_NAME).stat().st_size
    codes = num_bytes({name: tensor for name, tensor in tensors.items() if name in quantized})
    books = num_bytes({name: tensors[name] for name in quantized if not name.endswith(".weight")})
    return {
        "num_bytes": size,
        "header_bytes": size - num_bytes(tensors),
        "code_bytes": codes - books,
        "codebook_bytes": books,
        "unquantized_bytes": num_bytes(tensors) - codes,
        "full_precision_bytes": full,
    }


def _stored(parts: list[Part]) -> Stored | None:
    if all(weight.option.traits.keep for _, weight in parts):
        whole = torch.cat([weight.dequantize().cpu() for _, weight in parts], dim=1)
        return Stored({}, {"": narrowest(whole)})
    return comfy_weight(parts[0][1]) if len(parts) == 1 else None


def _joined(original: Original, found: dict[str, Stored], modules: dict[str, list[Part]]) -> Stored:
    """A tensor of the file, of one or more of the denoiser's.

    Raises:
        QsdError: they are stored in different ways, or under different scales of which there is one.
    """
    parts = [found[key] for key in original.keys]
    one = len({json.dumps(part.settings) for part in parts}) == 1
    shared = {suffix for suffix, tensor in parts[0].tensors.items() if tensor.ndim == 0 or suffix == _BOOK}
    if not one or any(
        not torch.equal(part.tensors[suffix], parts[0].tensors[suffix]) for part in parts for suffix in shared
    ):
        layers = [
            text
            for key in original.keys
            for text in spelled(modules.get(key.removesuffix(".weight"), [])) or [key]
        ]
        raise QsdError(
            f"comfy: {', '.join(layers)} are one tensor '{original.name}' in the original checkpoint, stored "
            "in one way there; give them all int8, all w4a8 or all keep (`qsd search --couple qkv`)"
        )
    tensors: dict[str, Tensor] = {}
    for suffix, first in parts[0].tensors.items():
        values = [part.tensors[suffix] for part in parts]
        wide = values[0].dtype if len({each.dtype for each in values}) == 1 else torch.float32
        whole = first if suffix in shared else torch.cat([each.to(wide) for each in values])
        if original.swapped and suffix not in shared:
            whole = torch.cat(whole.chunk(2)[::-1])
        tensors[suffix] = whole.clone().contiguous()
    return Stored(parts[0].settings, tensors)
