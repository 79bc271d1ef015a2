"""The weights of a config, module by module, for formats that hold whole weights."""

from collections.abc import Sequence

import numpy as np

from qsd.bank import FULL_PRECISION, Bank
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers import QuantizedWeight
from qsd.support.errors import QsdError

Part = tuple[WeightLayer, QuantizedWeight]
_SHOWN = 3


def quantized_modules(bank: Bank, config: np.ndarray) -> dict[str, list[Part]]:
    """Module path -> the parts of its weight (all of it, or segments in the order of their inputs).

    Args:
        bank: of the denoiser.
        config: int8 [L]; layers at ``FULL_PRECISION`` are left out.
    """
    found: dict[str, list[Part]] = {}
    for layer, option, row in zip(bank.layers, config, bank.weights, strict=True):
        weight = None if option == FULL_PRECISION else row[option]
        if weight is not None:
            found.setdefault(layer.module, []).append((layer, weight))
    return {name: sorted(parts, key=lambda part: part[0].segment or (0, 0)) for name, parts in found.items()}


def spelled(parts: Sequence[Part]) -> list[str]:
    """``LAYER (OPTION)`` of each part, for messages."""
    return [f"{layer.name} ({weight.option})" for layer, weight in parts]


def refuse(format: str, names: Sequence[str], remedy: str) -> None:
    """Ends an export whose layers a format cannot hold.

    Raises:
        QsdError: there are names.
    """
    if names:
        more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
        raise QsdError(
            f"{format} cannot hold these layers exactly: {', '.join(names[:_SHOWN])}{more}; "
            f"{remedy} (`qsd search --for {format}` chooses so), or --format qsd"
        )
