"""A weight tensor is stored in one of several options, and restored."""

from qsd.quantizers.option import Option, Traits
from qsd.quantizers.options import DEFAULT_OPTIONS, PAPER_OPTIONS, options_hash, parse_options
from qsd.quantizers.packing import pack, packed_bytes, unpack
from qsd.quantizers.quantizing import quantize, quantize_all
from qsd.quantizers.weight import QuantizedWeight, relative_error

__all__ = [
    "DEFAULT_OPTIONS",
    "PAPER_OPTIONS",
    "Option",
    "QuantizedWeight",
    "Traits",
    "options_hash",
    "pack",
    "packed_bytes",
    "parse_options",
    "quantize",
    "quantize_all",
    "relative_error",
    "unpack",
]
