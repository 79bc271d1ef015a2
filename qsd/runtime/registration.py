"""Makes exported folders known to diffusers."""

from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from qsd.runtime.manifest import Manifest, Method
from qsd.runtime.quantizer import QsdQuantizer


def register() -> None:
    """Lets ``from_pretrained`` of every diffusers class open folders written by :func:`qsd.export.export`."""
    AUTO_QUANTIZATION_CONFIG_MAPPING[Method.QSD.value] = Manifest
    AUTO_QUANTIZER_MAPPING[Method.QSD.value] = QsdQuantizer


register()
