"""The component that a pipeline encodes pictures and decodes latents with."""

from typing import Any

DECODERS = ("vae", "vqvae", "movq", "vqgan")
"""Names of such components."""

COLOURS, WITH_TRANSPARENCY = "RGB", "RGBA"


def decoder_of(pipe: Any) -> Any:
    """The pipeline's decoder of latents; None where it has none."""
    return next((part for name in DECODERS if (part := getattr(pipe, name, None)) is not None), None)


def picture_mode(pipe: Any) -> str:
    """Mode of the pictures that a pipeline draws from: transparency counts where its encoder reads it."""
    config: Any = getattr(decoder_of(pipe), "config", None)
    channels = getattr(config, "input_channels", None) or getattr(config, "in_channels", None)
    return WITH_TRANSPARENCY if channels == len(WITH_TRANSPARENCY) else COLOURS
