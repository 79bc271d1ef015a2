"""Other libraries' 4-bit weights, to be timed beside ours where they are installed. None is required."""

import importlib.util
from collections.abc import Callable
from typing import Any

from torch import nn

from qsd.support.errors import QsdError


def _torchao(denoiser: nn.Module) -> None:
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    int4: Any = vars(torch)["int4"]

    def fits(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear) and module.in_features % 32 == 0

    quantize_(denoiser, IntxWeightOnlyConfig(weight_dtype=int4, granularity=PerGroup(32)), fits)


def _quanto(denoiser: nn.Module) -> None:
    from optimum.quanto import freeze, qint4, quantize

    quantize(denoiser, weights=qint4)
    freeze(denoiser)


def _bitsandbytes(denoiser: nn.Module) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(denoiser.named_modules()):
        if type(module) is nn.Linear:
            bias = module.bias is not None
            layer: Any = Linear4bit(module.in_features, module.out_features, bias, module.weight.dtype)
            layer.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            layer.bias = module.bias
            parent, _dot, leaf = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), leaf, layer.to(torch.device(module.weight.device)))


PEERS: dict[str, tuple[str, Callable[[nn.Module], None]]] = {
    "torchao": ("torchao", _torchao),
    "optimum-quanto": ("optimum.quanto", _quanto),
    "bitsandbytes": ("bitsandbytes", _bitsandbytes),
}
"""Name -> module to look for, and what quantizes a denoiser in place to 4 bits."""


def check_peer(peer: str) -> None:
    """Refuses a library that cannot be timed.

    Raises:
        QsdError: it is unknown or not installed.
    """
    if peer not in PEERS:
        raise QsdError(f"--peers {peer}: known are {', '.join(PEERS)}")
    if not _is_there(PEERS[peer][0]):
        raise QsdError(f"--peers {peer}: is not installed; `pip install {peer}` or leave it out")


def quantize_by(peer: str, denoiser: nn.Module) -> nn.Module:
    """A denoiser quantized by another library, in place."""
    PEERS[peer][1](denoiser)
    return denoiser


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
