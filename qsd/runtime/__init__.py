"""Layers that run on packed codes, diffusers' plug-in for them, and their profile."""

from qsd.runtime.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedLayer,
    QuantizedLinear,
)
from qsd.runtime.memory import cache_weights, discard_edits
from qsd.runtime.packed import PackedWeight
from qsd.runtime.registration import register

__all__ = [
    "PackedWeight",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedLayer",
    "QuantizedLinear",
    "cache_weights",
    "discard_edits",
    "register",
]
