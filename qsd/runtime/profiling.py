"""What a quantized denoiser holds and how fast it runs, beside the same denoiser at full precision."""

import copy
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qsd.runtime.packed import PackedWeight
from qsd.runtime.stacks import unpack
from qsd.support.errors import QsdError


def profile(
    denoiser: nn.Module, inputs: Mapping[str, Any], *, warmup: int = 1, repeats: int = 5
) -> dict[str, Any]:
    """Memory and time of one forward pass.

    Args:
        denoiser: an exported denoiser, reloaded.
        inputs: keyword arguments of its forward, on its device and in its dtype.
        warmup: forward passes before timing.
        repeats: timed forward passes; their median counts.

    Returns:
        ``packed_bytes`` (codes and codebooks), ``unquantized_bytes`` (everything else), ``dense_bytes`` (what
        the packed weights take when they are dequantized to the dtype), ``seconds`` and ``dense_seconds``
        (median per forward, packed and dequantized), ``device``, ``dtype`` and ``repeats``.

    Raises:
        QsdError: the denoiser has no packed weights.
    """
    packed = [module for module in denoiser.modules() if isinstance(module, PackedWeight)]
    if not packed:
        raise QsdError(f"this {type(denoiser).__name__} is not quantized; profile an exported denoiser")
    packed_bytes = sum(part.quantized().num_bytes for part in packed)
    dense = copy.deepcopy(denoiser)
    unpack(dense)
    reference = next(denoiser.parameters())
    unquantized_bytes = _num_bytes(denoiser) - packed_bytes
    return {
        "packed_bytes": packed_bytes,
        "dense_bytes": _num_bytes(dense) - unquantized_bytes,
        "unquantized_bytes": unquantized_bytes,
        "seconds": _seconds(denoiser, inputs, warmup, repeats),
        "dense_seconds": _seconds(dense, inputs, warmup, repeats),
        "repeats": repeats,
        "device": str(reference.device),
        "dtype": str(reference.dtype).removeprefix("torch."),
    }


def _num_bytes(model: nn.Module) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.inference_mode()
def _seconds(model: nn.Module, inputs: Mapping[str, Any], warmup: int, repeats: int) -> float:
    device = next(model.parameters()).device
    times = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        model(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels run behind the caller's back
        times.append(time.perf_counter() - start)
    return statistics.median(times[warmup:])
