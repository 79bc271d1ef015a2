"""A universal ranker bound to one denoiser: with nothing, with probes of some layers, with labels."""

import dataclasses

import numpy as np

from qsd.bank import Bank
from qsd.denoisers.identity import check_same_denoiser
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.posteriors import FEWEST, TARGET, Posteriors, fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.ranker.universal.completing import completed_of, missing_layers, with_responses
from qsd.ranker.universal.predictor import UniversalPredictor
from qsd.ranker.universal.universal import Universal, header_of
from qsd.store import Header, Store
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class Bound:
    """A universal ranker of one denoiser.

    Attributes:
        ranker: predicts the target; with labels enough every label of the store, too.
        notes: what the ranker knows of the denoiser and what it does not, for people.
    """

    ranker: Ranker
    notes: list[str]


def bind(universal: Universal, bank: Bank, store: Store | None = None) -> Bound:
    """Makes a ranker of a bank's denoiser.

    Args:
        universal: trained on other denoisers.
        bank: of the denoiser.
        store: of the same bank, with probes of all or some layers, or labels, or both.

    Raises:
        QsdError: bank and store are of different denoisers or option tables, or the bank rounds activations.
    """
    header = header_of(bank)
    if store is not None:
        if store.header.options != bank.options:
            raise QsdError(f"{store.path}: of another option table than the bank; use files of one table")
        check_same_denoiser(bank.denoiser, store.header.denoiser, store.path)
        header = store.header
    completed = completed_of(universal, header)
    notes = notes_of(universal, header)
    posteriors: Posteriors = {}
    if store is None:
        notes.append("no probes and no labels of this denoiser")
    else:
        labels, target = _labels(store), Target(universal.target)
        lacking = set(target.names) - {*header.label_names, "avg_bits", "bytes"}
        if lacking:
            needs = ", ".join(sorted(lacking))
            notes.append(f"{store.path} has no {needs}, which the target {target.text} needs: labels unused")
        elif labels >= FEWEST:
            data = prepare(with_responses(store, completed.responses), target)
            posteriors = fit_posteriors(Ensemble(), data)
        measured = len(header.layers) - len(missing_layers(header))
        notes.append(f"{measured} of {len(header.layers)} layers probed, {labels} labels")
    if not posteriors:
        posteriors[TARGET] = UniversalPredictor.of(completed, universal.calibration)
    document = {
        "denoisers": [{"full_precision": header.provenance.get("full_precision", {})}],
        "target": universal.target,
        "metrics": universal.metrics,
        "provenance": {**universal.provenance, "universal": str(universal.folder), "knows": notes},
    }
    bare = dataclasses.replace(header, responses=None)
    return Bound(Ranker(universal.folder, bare, Ensemble(), posteriors, document), notes)


def notes_of(universal: Universal, header: Header) -> list[str]:
    """How sure the ranker is, and what it has not seen."""
    found = universal.left_out_spearman
    notes = []
    if universal.knows(header.denoiser):
        notes.append("it was trained on this denoiser")
    elif found:
        notes.append(
            f"on denoisers that it had not seen it ranked labels at Spearman {np.mean(found):.2f} "
            f"({min(found):.2f} to {max(found):.2f})"
        )
    _, news = universal.seen.news(header)
    return notes + [f"{new}; intervals are wider" for new in news]


def _labels(store: Store) -> int:
    records = store.records
    return int((records.split != 2).sum()) if len(records) else 0
