"""``sdnq`` files: what stock diffusers opens where the package sdnq is installed, without qsd.

The tensors and settings are those that sdnq 0.2.8 reads, found by trying; nothing of that package is used.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsd.bank import Bank
from qsd.export.folder import CONFIG_NAME, RECIPE_NAME, without_paths, write_json
from qsd.export.native import narrowest, num_bytes
from qsd.export.recipe import recipe_of
from qsd.export.renderings import sdnq_settings
from qsd.export.shards import write_shards
from qsd.export.weights import Part, quantized_modules, refuse, spelled
from qsd.quantizers import QuantizedWeight
from qsd.quantizers.packing import unpack
from qsd.support.documents import write_json as write_document

NAME = "sdnq"
_KINDS = ("linear", "conv2d")
_REMEDY = (
    "use uaq, int8 or fp8_e4m3, or lloyd, kmeans, nf4 or fp4 of whole rows, for whole weights "
    "(`qsd bank --graph chain` splits none) of linear layers and ungrouped 2-D convolutions, keep for others"
)
_BYTES: dict[int, list[list[tuple[int, int, int]]]] = {
    2: [[(code, 0, 2) for code in range(4)]],
    3: [
        [(0, 0, 3), (3, 0, 3), (6, 0, 2)],
        [(1, 0, 3), (4, 0, 3), (7, 0, 2)],
        [(2, 0, 3), (5, 0, 3), (6, 2, 1), (7, 2, 1)],
    ],
    4: [[(0, 0, 4), (1, 0, 4)]],
    5: [
        *([(code, 0, 5), (5 + code, 0, 3)] for code in range(3)),
        [(3, 0, 5), (5, 3, 2), (7, 4, 1)],
        [(4, 0, 5), (6, 3, 2), (7, 3, 1)],
    ],
    6: [[(code, 0, 6), (3, 4 - 2 * code, 2)] for code in range(3)],
    7: [[(code, 0, 7), (7, 6 - code, 1)] for code in range(7)],
}
"""Bits of a code -> bytes of a group of codes -> parts of the byte, lowest first: code, first bit, bits."""
_SETTINGS: dict[str, Any] = {
    "quant_method": NAME,
    "weights_dtype": "uint4",
    "group_size": -1,
    "use_codebook": False,
    "quant_conv": True,
    "quant_embedding": False,
    "use_quantized_matmul": False,
    "use_svd": False,
    "use_hadamard": False,
    "dequantize_fp32": True,
    "add_skip_keys": False,
    "minimum_allowed_numel": 1,
    "minimum_allowed_channel_size": 1,
}


def pack_sdnq(codes: Tensor, bits: int) -> Tensor:
    """Codes in the order of sdnq.

    Args:
        codes: uint8, any shape, a multiple of :func:`codes_of_group`; packed in row-major order.
        bits: 2 to 8.

    Returns:
        uint8 [bytes] for 2 and 4 bits, [groups, bytes of a group] for 3, 5, 6 and 7; 8 bits as they are.
    """
    if bits == 8:
        return codes.contiguous()
    parts = _BYTES[bits]
    grouped = codes.reshape(-1, codes_of_group(bits))
    packed = torch.zeros(len(grouped), len(parts), dtype=torch.uint8)
    for place, byte in enumerate(parts):
        shift = 0
        for code, first, count in byte:
            packed[:, place] |= ((grouped[:, code] >> first) & ((1 << count) - 1)) << shift
            shift += count
    return packed.view(-1) if len(parts) == 1 else packed


def codes_of_group(bits: int) -> int:
    """Codes that fill whole bytes together."""
    return 1 if bits == 8 else 8 * len(_BYTES[bits]) // bits


def sdnq_weight(weight: QuantizedWeight) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """A weight as sdnq stores it, and the settings of its layer; None if sdnq would restore other numbers.

    Rows of groups are [O, groups, group], with scales and zero points [O, groups, 1].
    """
    option, shape = weight.option, weight.shape
    traits, bits = option.traits, int(option.traits.bits)
    if NAME not in option.carriers or (traits.group and len(shape) > 2):
        return None
    stored = {name: tensor.cpu() for name, tensor in weight.stored.items()}
    taps = (1,) * (len(shape) - 2)
    settings = sdnq_settings(option)
    if "weight" in stored:
        scale = stored["scale"].view(-1, 1, *taps).expand(shape[0], 1, *shape[2:]).contiguous()
        return {"weight": stored["weight"], "scale": scale}, settings
    if weight.numel % codes_of_group(bits):
        return None
    units = shape[0] * (math.prod(shape[1:]) // traits.group if traits.group else 1)
    codes = unpack(stored["codes"], bits, weight.numel).view(shape)
    grid = option.grid(stored, units)
    if grid is None:
        book = option.table(stored, max(weight.numel, units << bits), torch.float32)
        assert book is not None, "the scheme that names sdnq says so"
        scale = book.view(-1)
        if traits.scope == "row":
            scale = book.view(*book.shape, *taps).expand(*book.shape, *shape[2:]).contiguous()
        return {"weight": pack_sdnq(codes, bits), "scale": scale}, settings
    if traits.group:
        codes = codes.view(shape[0], -1, traits.group)
        scale, zero = (each.view(shape[0], -1, 1) for each in grid)
    else:
        scale, zero = (each.view(-1, 1, *taps) for each in grid)
    offset = -zero * scale
    products = codes.double() * scale.double()
    exact = torch.equal(products.float().double(), products)
    if not (exact and torch.equal((products.float() + offset).view(shape), weight.dequantize().cpu())):
        return None
    if not traits.group:
        scale, offset = (each.expand(-1, 1, *shape[2:]) for each in (scale, offset))
    tensors = {"weight": pack_sdnq(codes, bits), "scale": scale, "zero_point": offset}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, settings


def write_sdnq(
    folder: Path,
    denoiser: Any,
    bank: Bank,
    config: np.ndarray,
    provenance: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, int]:
    """Writes config.json, safetensors files and the recipe; returns the sizes of an export.

    Weights that modules share are stored once for each.

    Raises:
        QsdError: sdnq cannot hold a layer exactly.
    """
    state = {key: narrowest(tensor) for key, tensor in denoiser.state_dict().items()}
    full = sum(tensor.numel() * min(tensor.element_size(), 2) for tensor in state.values())
    modules: dict[str, dict[str, Any]] = {}
    packed: dict[str, Tensor] = {}
    refused: list[str] = []
    for module, parts in quantized_modules(bank, config).items():
        paths = (module, *parts[0][0].tied)
        if all(weight.option.traits.keep for _, weight in parts):
            kept = [weight.stored["weight"].cpu() for _, weight in parts]
            state |= {f"{path}.weight": torch.cat(kept, dim=1) for path in paths}
            continue
        found = sdnq_weight(parts[0][1]) if _holds(parts, denoiser) else None
        if found is None:
            refused += spelled(parts)
            continue
        tensors, modified = found
        for path in paths:
            del state[f"{path}.weight"]
            packed |= {f"{path}.{name}": tensor.clone() for name, tensor in tensors.items()}
            modules[f"{path}.weight"] = modified
    refuse(NAME, refused, _REMEDY)
    folder.mkdir()
    size = write_shards(folder, packed | state, **settings)
    document = without_paths(json.loads(denoiser.to_json_string()))
    document["quantization_config"] = _SETTINGS | {
        "modules_to_not_convert": sorted(key for key in state if key.endswith(".weight")),
        "modules_quant_config": modules,
    }
    write_json(folder / CONFIG_NAME, document)
    write_document(folder / RECIPE_NAME, recipe_of(bank, config, provenance))
    codes = num_bytes({key: tensor for key, tensor in packed.items() if key.endswith(".weight")})
    return {
        "num_bytes": size,
        "header_bytes": size - num_bytes(packed | state),
        "code_bytes": codes,
        "codebook_bytes": num_bytes(packed) - codes,
        "unquantized_bytes": num_bytes(state),
        "full_precision_bytes": full,
    }


def _holds(parts: list[Part], denoiser: Any) -> bool:
    """Whether sdnq has a module for a layer: whole weights, linear or of ungrouped 2-D convolutions."""
    layer = parts[0][0]
    groups = getattr(denoiser.get_submodule(layer.module), "groups", 1)
    return len(parts) == 1 and layer.segment is None and layer.kind in _KINDS and groups == 1
