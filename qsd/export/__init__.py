"""Packed safetensors in a diffusers folder, the layers that run on packed codes, and their profile."""

from qsd.export.layers import (
    PackedWeight,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedLinear,
)
from qsd.export.profile import profile
from qsd.export.read import load_export
from qsd.export.register import register
from qsd.export.write import ExportResult, export

__all__ = [
    "ExportResult",
    "PackedWeight",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedLinear",
    "export",
    "load_export",
    "profile",
    "register",
]
