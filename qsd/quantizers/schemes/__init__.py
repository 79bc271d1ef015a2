"""The schemes, one file each; importing this package registers them."""

from qsd.quantizers.schemes import (
    affine,
    codes_of_floats,
    gguf_types,
    keep,
    kmeans,
    shared_codebook,
    w4a8,
    wrappers,
)

__all__ = ["affine", "codes_of_floats", "gguf_types", "keep", "kmeans", "shared_codebook", "w4a8", "wrappers"]
