"""Files of a quantized denoiser: packed safetensors in a diffusers folder, and how they are read back."""

from qsd.export.read import load_export
from qsd.export.write import ExportResult, export
from qsd.support.callable_package import make_callable

__all__ = ["ExportResult", "export", "load_export"]

make_callable(__name__, "qsd.export.write", "export")
