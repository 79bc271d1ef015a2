"""A weight tensor becomes codes and a codebook, in one of several options, and back."""

from qsd.quantizers.options import DEFAULT_OPTIONS, METHODS, Option, options_hash, parse_options
from qsd.quantizers.packing import pack, packed_bytes, unpack
from qsd.quantizers.quantizing import quantize, quantize_all
from qsd.quantizers.weight import QuantizedWeight, lookup, relative_error

__all__ = [
    "DEFAULT_OPTIONS",
    "METHODS",
    "Option",
    "QuantizedWeight",
    "lookup",
    "options_hash",
    "pack",
    "packed_bytes",
    "parse_options",
    "quantize",
    "quantize_all",
    "relative_error",
    "unpack",
]
