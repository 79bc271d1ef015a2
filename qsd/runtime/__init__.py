"""Layers that run on packed codes, diffusers' plug-in for them, and their profile."""

from qsd.runtime.layers import (
    PackedWeight,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedLinear,
)
from qsd.runtime.profiling import profile
from qsd.runtime.registration import register

__all__ = [
    "PackedWeight",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedLinear",
    "profile",
    "register",
]
