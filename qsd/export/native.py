"""``qsd`` files: packed codes and a manifest, which diffusers opens after ``import qsd``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsd.bank import FULL_PRECISION, ActivationTable, Bank
from qsd.bank.carried import Carried
from qsd.denoisers.layers import parameter_path
from qsd.export.folder import CONFIG_NAME, without_paths, write_json
from qsd.export.shards import write_shards
from qsd.runtime.manifest import Manifest
from qsd.support.hashing import json_hash
from qsd.support.tensors import tensor_hash


def write_native(
    folder: Path,
    denoiser: Any,
    bank: Bank,
    config: np.ndarray,
    provenance: dict[str, Any],
    settings: dict[str, Any],
    carried: Carried | None = None,
    table: ActivationTable = ActivationTable(),  # noqa: B008 (frozen)
) -> dict[str, int]:
    """Writes config.json and the safetensors files; returns the sizes of :class:`qsd.export.ExportResult`."""
    tied = _tied_tensors(denoiser)
    manifest = _manifest(bank, config, tied, provenance, carried)
    packed = _packed_tensors(bank, config)
    quantized = {
        parameter_path(denoiser, layer.module)
        for layer, option in zip(bank.layers, config, strict=True)
        if option != FULL_PRECISION
    }
    state = {key: tensor for key, tensor in denoiser.state_dict().items() if key not in tied}
    plain = {key: narrowest(tensor) for key, tensor in state.items() if key not in quantized}
    plain |= {} if carried is None else carried.tensors(table)
    folder.mkdir()
    size = write_shards(folder, packed | plain, **settings)
    document = json.loads(denoiser.to_json_string())
    hashes = {name: tensor_hash(tensor) for name, tensor in (packed | plain).items()}
    document["quantization_config"] = manifest.to_dict() | {"hashes": hashes}
    document = without_paths(document)
    document["quantization_config"]["hash"] = json_hash(document)
    write_json(folder / CONFIG_NAME, document)
    codes = num_bytes({key: tensor for key, tensor in packed.items() if key.endswith(".codes")})
    sizes = {
        "num_bytes": size,
        "code_bytes": codes,
        "codebook_bytes": num_bytes(packed) - codes,
        "unquantized_bytes": num_bytes(plain),
        "full_precision_bytes": sum(
            tensor.numel() * min(tensor.element_size(), 2) for tensor in state.values()
        ),
    }
    return sizes | {"header_bytes": sizes["num_bytes"] - num_bytes(packed | plain)}


def _manifest(
    bank: Bank,
    config: np.ndarray,
    tied: dict[str, str],
    provenance: dict[str, Any],
    carried: Carried | None,
) -> Manifest:
    chosen = [
        (layer, str(bank.options[option]))
        for layer, option in zip(bank.layers, config, strict=True)
        if option != FULL_PRECISION
    ]
    segments: dict[str, list[list[int]]] = {}
    for layer, _ in chosen:
        if layer.segment is not None:
            segments.setdefault(layer.module, []).append(list(layer.segment))
    return Manifest(
        layers={layer.name: option for layer, option in chosen},
        segments={module: sorted(ranges) for module, ranges in segments.items()},
        tied=tied,
        denoiser=bank.denoiser,
        options=[str(option) for option in bank.options],
        options_hash=bank.options_hash,
        provenance=provenance,
        activations=None if carried is None else carried.to_json(),
    )


def _packed_tensors(bank: Bank, config: np.ndarray) -> dict[str, Tensor]:
    """The tensors of all quantized weights under the names that runtime layers give them."""
    chosen = [index for index, option in enumerate(config) if option != FULL_PRECISION]
    chosen.sort(key=lambda index: bank.layers[index].segment or (0, 0))
    tensors: dict[str, Tensor] = {}
    next_part: dict[str, int] = {}
    for index in chosen:
        module = bank.layers[index].module
        part = next_part.get(module, 0)
        next_part[module] = part + 1
        weight = bank.weights[index][config[index]]
        assert weight is not None, "checked before"
        for name, tensor in weight.tensors().items():
            tensors[f"{module}.packed.{part}.{name}"] = tensor.cpu().contiguous()
    return tensors


def _tied_tensors(denoiser: Any) -> dict[str, str]:
    """Names of saved tensors that are the same object as an earlier one -> name of that one."""
    first: dict[int, str] = {}
    state = denoiser.state_dict(keep_vars=True)
    sources = {key: first.setdefault(id(tensor), key) for key, tensor in state.items()}
    return {key: source for key, source in sources.items() if key != source}


def narrowest(tensor: Tensor) -> Tensor:
    """A copy in main memory, in a 16-bit type if that holds every value exactly."""
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    if tensor.dtype == torch.float32:
        for dtype in (torch.float16, torch.bfloat16):
            narrow = tensor.to(dtype)
            if torch.equal(narrow.float(), tensor):
                return narrow
    return tensor


def num_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
