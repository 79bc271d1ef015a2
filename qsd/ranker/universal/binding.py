"""A universal ranker bound to one denoiser: with nothing, with probes of some layers, with labels."""

import copy
import dataclasses

import numpy as np

from qsd.bank import Bank
from qsd.denoisers.identity import check_same_denoiser
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.data import prepare
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.joint import joint
from qsd.ranker.posteriors import FEWEST, TARGET, Posteriors, fit_posteriors
from qsd.ranker.target import Target
from qsd.ranker.universal.expected import Completed
from qsd.ranker.universal.predictor import UniversalPredictor
from qsd.ranker.universal.universal import Universal
from qsd.store import Header, Responses, Store
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
        QsdError: bank and store are of different denoisers or option tables.
    """
    header = header_of(bank)
    if store is not None:
        if store.header.options != bank.options:
            raise QsdError(f"{store.path}: of another option table than the bank; use files of one table")
        check_same_denoiser(bank.denoiser, store.header.denoiser, store.path)
        header = dataclasses.replace(store.header, responses=None)
    completed = completed_of(universal, store.header if store is not None else header)
    notes = notes_of(universal, header)
    posteriors: Posteriors = {}
    if store is not None:
        measured = len(header.layers) - len(missing_layers(store.header))
        notes.append(f"{measured} of {len(header.layers)} layers probed")
        labels = _labels(store)
        if labels >= FEWEST:
            data = prepare(with_responses(store, completed.responses), Target(universal.target))
            posteriors = fit_posteriors(Ensemble(), data)
        notes.append(f"{labels} labels" + ("" if posteriors else f", fewer than the {FEWEST} that it takes"))
    else:
        notes.append("no probes and no labels of this denoiser")
    if not posteriors:
        posteriors[TARGET] = UniversalPredictor.of(completed, universal.calibration)
    document = {
        "denoisers": [{"full_precision": header.provenance.get("full_precision", {})}],
        "target": universal.target,
        "metrics": universal.metrics,
        "provenance": {**universal.provenance, "universal": str(universal.folder), "knows": notes},
    }
    return Bound(Ranker(universal.folder, joint(header), Ensemble(), posteriors, document), notes)


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
    _, news = universal.seen.news(joint(header))
    return notes + [f"{new}; intervals are wider" for new in news]


def completed_of(universal: Universal, header: Header) -> Completed:
    """What is expected of a denoiser given what its store has measured."""
    responses = header.responses
    if responses is not None and responses.sketched:  # while they are being probed
        responses = None
    paired = joint(dataclasses.replace(header, responses=responses))
    return universal.expected(dataclasses.replace(header, responses=None)).given(paired.responses)


def with_completed(store: Store, universal: Universal) -> Store:
    """The store with expected responses where layers were not probed; itself if all were, or none."""
    header = store.header
    if not is_partly_probed(header):
        return store
    return with_responses(store, completed_of(universal, header).responses)


def with_responses(store: Store, responses: Responses) -> Store:
    """A view of a store whose responses are of pairs of options."""
    other = copy.copy(store)
    other.header = dataclasses.replace(store.header, responses=responses)
    return other


def missing_layers(header: Header) -> np.ndarray:
    """Positions of the layers that were not probed."""
    responses = header.responses
    if responses is None or responses.sketched:
        return np.arange(len(header.layers))
    return responses.missing()


def is_partly_probed(header: Header) -> bool:
    """Whether some of the layers were probed, and not all."""
    return 0 < len(missing_layers(header)) < len(header.layers)


def header_of(bank: Bank) -> Header:
    """A header without conditions, labels and responses."""
    return Header(
        denoiser=bank.denoiser,
        layers=bank.layers,
        graph=bank.graph,
        options=bank.options,
        num_bytes=bank.num_bytes,
        relative_error=bank.relative_errors,
        labels=(),
        conditions={},
        provenance={},
        activation_options=tuple(map(str, bank.activation_options)),
    )


def _labels(store: Store) -> int:
    records = store.records
    return int((records.split != 2).sum()) if len(records) else 0
