"""Files of a quantized denoiser: packed safetensors in a diffusers folder, and how they are read back."""

from qsd.export.hub import push_to_hub
from qsd.export.read import check_export, load_export
from qsd.export.write import ExportResult, export
from qsd.support.callable_package import make_callable

__all__ = ["ExportResult", "check_export", "export", "load_export", "push_to_hub"]

make_callable(__name__, "qsd.export.write", "export")
