"""Which layers to probe, where there is no time for all: those whose answer is least predictable."""

import dataclasses
import math

import numpy as np

from qsd.bank import Bank
from qsd.ranker.universal.universal import Universal, header_of
from qsd.store import FULL_ACTIVATIONS, Responses
from qsd.support.errors import QsdError


def layers_to_probe(
    bank: Bank, budget: float, responses: Responses | None = None, universal: Universal | None = None
) -> list[int]:
    """Chooses layers, so that with those that are measured already they are a share of all.

    Args:
        bank: of the denoiser, L layers.
        budget: the share, above 0 and at most 1; there is always one layer at least.
        responses: what was measured so far.
        universal: tells what it can't predict; without one, layers of large error and many weights are first.

    Returns:
        Positions in bank order, those measured already included.

    Raises:
        QsdError: the share is out of range.
    """
    if not 0 < budget <= 1:
        raise QsdError(f"budget {budget}: give a share of the layers above 0 and at most 1, such as 0.25")
    layers = len(bank.layers)
    measured = np.zeros(layers, dtype=bool)
    if responses is not None:
        measured[np.setdiff1d(np.arange(layers), responses.missing())] = True
    count = max(1, math.ceil(budget * layers)) - int(measured.sum())
    if count <= 0:
        return np.flatnonzero(measured).tolist()
    if universal is not None:
        header = dataclasses.replace(header_of(bank), activation_options=FULL_ACTIVATIONS)
        chosen = universal.expected(header).least_predictable(count, measured)
    else:
        weight = np.nanmean(bank.relative_errors, axis=1) * bank.num_weights
        chosen = np.argsort(np.where(measured, np.inf, -weight), kind="stable")[:count].tolist()
    return sorted([*np.flatnonzero(measured).tolist(), *chosen])
