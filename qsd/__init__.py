"""qsd finds out which parts of a diffusion model can be stored in 3 or 4 bits, and ships the result.

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

After ``import qsd`` every diffusers class opens exported folders with its own ``from_pretrained``.
"""

# Everything is loaded here: `qsd.search` and `qsd.export` are functions that share their names with packages,
# and a package that were first imported later would take the name back.
from qsd.api import build_bank, label, probe, search
from qsd.bank import Bank
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.export import export, load_export
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.runtime import register
from qsd.search import Front
from qsd.store import Store
from qsd.support.errors import QsdError

register()

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
    "load_export",
    "load_pipeline",
    "load_ranker",
    "probe",
    "search",
]
