"""qsd finds out which parts of a diffusion model can be stored in 3 or 4 bits, and ships the result.

A user's five minutes::

    import qsd

    pipe = qsd.load_pipeline("checkpoints/digits-pixart-alpha")  # any diffusers folder or hub id
    bank = qsd.build_bank(pipe)
    store = qsd.label(pipe, bank, "digits.h5", num_configs=500, evaluator=qsd.EvaluationSettings(...))
    ranker = qsd.load_ranker("runs/ranker")  # trained by `lightning fit`
    front = qsd.search(ranker, bank, max_bits=3.5)
    qsd.export(pipe, bank, front.best(), "out")

After ``import qsd`` every diffusers class opens exported folders with its own ``from_pretrained``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from qsd.errors import QsdError
from qsd.export.register import register

if TYPE_CHECKING:
    from qsd.api import build_bank, label, search
    from qsd.bank import Bank
    from qsd.denoisers.pipeline import load_pipeline
    from qsd.export.write import export
    from qsd.labels.settings import EvaluationSettings
    from qsd.ranker.checkpoint import Ranker, load_ranker
    from qsd.search.front import Front
    from qsd.store import Store

register()

_HOMES = {
    "Bank": "qsd.bank",
    "EvaluationSettings": "qsd.labels.settings",
    "Front": "qsd.search.front",
    "Ranker": "qsd.ranker.checkpoint",
    "Store": "qsd.store",
    "build_bank": "qsd.api",
    "export": "qsd.export.write",
    "label": "qsd.api",
    "load_pipeline": "qsd.denoisers.pipeline",
    "load_ranker": "qsd.ranker.checkpoint",
    "search": "qsd.api",
}

__all__ = [
    "Bank",
    "EvaluationSettings",
    "Front",
    "QsdError",
    "Ranker",
    "Store",
    "build_bank",
    "export",
    "label",
    "load_pipeline",
    "load_ranker",
    "search",
]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that `import qsd` costs only what registering needs."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qsd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
