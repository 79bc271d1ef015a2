"""qsd finds out which parts of a diffusion model can be stored in few bits, and ships the result.

A user's five minutes::

    import qsd

    pipe = qsd.load_pipeline("checkpoints/digits-pixart-alpha")  # any diffusers folder or hub id
    bank = qsd.build_bank(pipe)
    settings = qsd.EvaluationSettings(...)
    qsd.probe(pipe, bank, "digits.h5", evaluator=settings)
    store = qsd.label(pipe, bank, "digits.h5", num_configs=100, evaluator=settings)
    ranker = qsd.load_ranker("runs/ranker")  # trained by `lightning fit`
    front = qsd.search(ranker, bank, max_bits=3.5)
    qsd.export(pipe, bank, front.best(), "out")

After ``import qsd`` every diffusers class opens exported folders with its own ``from_pretrained``. Names are
loaded when they are first used, so the import itself takes milliseconds.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from qsd.support.errors import QsdError
from qsd.support.imports import after_import

if TYPE_CHECKING:
    from qsd.api import build_bank, label, probe, search, write_bank
    from qsd.bank import Bank
    from qsd.denoisers.input_files import load_inputs, save_inputs
    from qsd.denoisers.pipeline import load_pipeline
    from qsd.denoisers.recording import record_inputs
    from qsd.evaluation import EvaluationSettings
    from qsd.export.read import load_export
    from qsd.export.write import export
    from qsd.ranker.checkpoint import Ranker, load_ranker
    from qsd.runtime import cache_weights, discard_edits
    from qsd.search.front import Front
    from qsd.store import Store

__version__ = version("qsd")

_HOMES = {
    "Bank": "qsd.bank",
    "EvaluationSettings": "qsd.evaluation",
    "Front": "qsd.search",
    "Ranker": "qsd.ranker.checkpoint",
    "Store": "qsd.store",
    "build_bank": "qsd.api",
    "cache_weights": "qsd.runtime",
    "discard_edits": "qsd.runtime",
    "label": "qsd.api",
    "load_export": "qsd.export",
    "load_inputs": "qsd.denoisers.input_files",
    "load_pipeline": "qsd.denoisers.pipeline",
    "load_ranker": "qsd.ranker.checkpoint",
    "probe": "qsd.api",
    "record_inputs": "qsd.denoisers.recording",
    "save_inputs": "qsd.denoisers.input_files",
    "write_bank": "qsd.api",
}
_CALLABLE_PACKAGES = ("export", "search")

__all__ = [
    "Bank",
    "EvaluationSettings",
    "Front",
    "QsdError",
    "Ranker",
    "Store",
    "__version__",
    "build_bank",
    "cache_weights",
    "discard_edits",
    "export",
    "label",
    "load_export",
    "load_inputs",
    "load_pipeline",
    "load_ranker",
    "probe",
    "record_inputs",
    "save_inputs",
    "search",
    "write_bank",
]


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_PACKAGES:
        return importlib.import_module(f"qsd.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qsd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def _register() -> None:
    from qsd.runtime.registration import register

    register()


after_import("diffusers.quantizers.auto", _register)
