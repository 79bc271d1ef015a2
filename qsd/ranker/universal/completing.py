"""Stores of which some layers were probed: the universal ranker says what the others change."""

import copy
import dataclasses

import numpy as np

from qsd.ranker.universal.expected import Completed
from qsd.ranker.universal.files import shipped_universal
from qsd.ranker.universal.universal import Universal
from qsd.store import Header, Responses, Store


def completed_of(universal: Universal, header: Header) -> Completed:
    """What is expected of a denoiser given what its store has measured.

    Raises:
        QsdError: the header has options for activations.
    """
    responses = header.responses
    if responses is not None and responses.sketched:  # while they are being probed
        responses = None
    return universal.expected(dataclasses.replace(header, responses=None)).given(responses)


def filled_in(store: Store, universal: Universal | None = None) -> tuple[Store, str]:
    """The store with what is expected of the layers that were not probed.

    Args:
        store: of which all layers were probed, or none, or some.
        universal: None for the shipped one.

    Returns:
        The store, itself if it was not probed in part or no universal ranker ships; and a remark, empty if
        nothing was filled in.
    """
    header = store.header
    missing = len(missing_layers(header))
    if not 0 < missing < len(header.layers) or len(header.activation_options) > 1:
        return store, ""
    universal = universal or shipped_universal()
    if universal is None:
        return store, ""
    remark = (
        f"{store.path}: {len(header.layers) - missing} of {len(header.layers)} layers probed; of the others "
        f"the ranker {universal.folder.name} says what it expects"
    )
    return with_responses(store, completed_of(universal, header).responses), remark


def with_responses(store: Store, responses: Responses) -> Store:
    """A view of a store that has other responses."""
    other = copy.copy(store)
    other.header = dataclasses.replace(store.header, responses=responses)
    return other


def missing_layers(header: Header) -> np.ndarray:
    """Positions of the layers that were not probed."""
    responses = header.responses
    if responses is None or responses.sketched:
        return np.arange(len(header.layers))
    return responses.missing()
