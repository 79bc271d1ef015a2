"""What no bank is built of: denoisers that are quantized already, or other than their config describes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qsd.support.errors import QsdError
from qsd.support.quiet import quiet

_DEFAULTS = "_use_default_values"
"""Entry of a config, which no file has: names that were not given, whatever became of them since."""


def check_untouched(denoiser: nn.Module) -> None:
    """Refuses a denoiser that could not be exported, before anything is computed.

    Raises:
        QsdError: it was loaded quantized, or its weights have other names or shapes than its config makes.
    """
    _check_full_precision(denoiser)
    _check_as_configured(denoiser)


def _check_full_precision(denoiser: nn.Module) -> None:
    config: Any = getattr(denoiser, "config", None) or {}
    method = (config.get("quantization_config") or {}) if hasattr(config, "get") else {}
    name = (
        method.get("quant_method") if isinstance(method, Mapping) else getattr(method, "quant_method", None)
    )
    if name is None and not any(parameter.is_floating_point() for parameter in denoiser.parameters()):
        name = "no floating-point weights"
    if name is not None:
        raise QsdError(
            f"{type(denoiser).__name__} is quantized already ({getattr(name, 'value', name)}); load the "
            "full-precision checkpoint, for example `from_pretrained(...)` of its original folder"
        )


def _check_as_configured(denoiser: nn.Module) -> None:
    """A denoiser whose layers were replaced after loading opens nowhere: its config makes the old ones."""
    make: Any = getattr(type(denoiser), "from_config", None)
    if make is None:
        return
    try:
        config: Any = denoiser.config
        saved = {name: value for name, value in config.items() if name != _DEFAULTS}
        with torch.device("meta"), quiet():
            fresh: nn.Module = make(saved)
    except Exception:  # of a class that is not built from its config alone
        return
    made, found = _shapes(fresh), _shapes(denoiser)
    for name in sorted(made.keys() | found.keys()):
        if made.get(name) != found.get(name):
            raise QsdError(
                f"{type(denoiser).__name__} was changed after it was loaded: '{name}' is "
                f"{_said(found.get(name))}, and its config makes {_said(made.get(name))}, so that no export "
                "of it could be opened; take adapters out (`pipe.fuse_lora(); pipe.unload_lora_weights()`) "
                "or save and load it with a config that describes it"
            )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.named_parameters(remove_duplicate=False)}


def _said(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
