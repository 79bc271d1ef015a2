"""Makes exported folders known to diffusers."""

import importlib
from typing import Any

METHOD = "qsd"
"""The ``quant_method`` of exported folders."""


class _Later:
    """Stands for a class whose module is imported when it is first used: diffusers may be half imported."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _class(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self._class()(*arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._class(), name)


def register() -> None:
    """Lets ``from_pretrained`` of every diffusers class open folders written by :func:`qsd.export.export`."""
    from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    settings: dict[str, Any] = AUTO_QUANTIZATION_CONFIG_MAPPING
    settings[METHOD] = _Later("qsd.runtime.manifest", "Manifest")
    quantizers: dict[str, Any] = AUTO_QUANTIZER_MAPPING
    quantizers[METHOD] = _Later("qsd.runtime.quantizer", "QsdQuantizer")
