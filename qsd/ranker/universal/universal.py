"""The universal ranker as a whole: networks, what they learned on, and how wrong they were on others."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.bank import Bank
from qsd.denoisers.identity import same_denoiser
from qsd.ranker.universal.deviations import Variances
from qsd.ranker.universal.expected import Expected
from qsd.ranker.universal.graphs import LayerGraph, traits_text
from qsd.ranker.universal.network import SPACES, ResponseNetwork
from qsd.ranker.universal.predictor import Calibration
from qsd.store import Header
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class Seen:
    """What networks have learned from.

    Attributes:
        roles: of layers.
        options: kinds of options (:func:`qsd.ranker.universal.graphs.traits_text`).
        bits: fewest and most bits of an option.
        role_variance: of the mean log gain between roles.
        option_variance: of the log gain between options of a layer.
    """

    roles: tuple[str, ...]
    options: tuple[str, ...]
    bits: tuple[float, float]
    role_variance: float
    option_variance: float

    def news(self, header: Header) -> tuple[np.ndarray, list[str]]:
        """What of a denoiser is new.

        Returns:
            Variance to add, float64 [L, O], and in words why.
        """
        new_roles = sorted({layer.role for layer in header.layers} - set(self.roles))
        kinds = {option: traits_text(option) for option in header.options}
        low, high = self.bits
        new_options = [
            option
            for option, kind in kinds.items()
            if kind not in self.options or not low <= option.traits.bits <= high
        ]
        extra = np.zeros(header.num_bytes.shape)
        extra[[layer.role in new_roles for layer in header.layers]] += self.role_variance
        extra[:, [option in new_options for option in header.options]] += self.option_variance
        notes = []
        if new_roles:
            notes.append(f"roles that it has never seen: {', '.join(new_roles)}")
        if new_options:
            notes.append(f"options of kinds that it has never seen: {', '.join(map(str, new_options))}")
        return extra, notes


@dataclasses.dataclass(frozen=True)
class Universal:
    """A trained universal ranker.

    Attributes:
        members: networks, in evaluation mode.
        seen: what they learned from together.
        variances: by space, of their errors on denoisers that they had not seen.
        calibration: of their scores to the target.
        target: expression that labels were ranked by; larger is better.
        metrics: by left-out store, metrics of the member that had not seen it.
        denoisers: identities of those learned from.
        hyper_parameters: of the fit.
        provenance: versions, command.
        folder: where it was loaded from.
    """

    members: list[ResponseNetwork]
    seen: Seen
    variances: tuple[Variances, ...]
    calibration: Calibration
    target: str
    metrics: dict[str, Any]
    denoisers: list[dict[str, Any]]
    hyper_parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path = Path()

    def expected(self, header: Header) -> Expected:
        """Of a denoiser, by its header.

        Raises:
            QsdError: the header has options for activations.
        """
        if len(header.activation_options) > 1:
            raise QsdError(
                "universal ranker: it knows 16-bit activations alone; build a bank without --activations, or "
                "label a store and train a ranker of its own with `qsd fit`"
            )
        return expected_of(self.members, header, self.variances, self.seen)

    def knows(self, denoiser: dict[str, Any]) -> bool:
        """Whether it learned from this denoiser."""
        return any(same_denoiser(one, denoiser) for one in self.denoisers)

    @property
    def left_out_spearman(self) -> list[float]:
        """By denoiser, of the member that had not seen it."""
        return [float(row["spearman"]["value"]) for row in self.metrics.values()]


def expected_of(
    members: Sequence[ResponseNetwork], header: Header, variances: tuple[Variances, ...], seen: Seen
) -> Expected:
    """What networks expect of a denoiser: the mean of their log energies, and of their cosines."""
    energy, embedding = predicted(members, LayerGraph.of(header))
    weights = torch.stack([member.space_weights.detach() for member in members]).mean(dim=0)
    extra, _ = seen.news(header)
    return Expected(
        header=header,
        spaces=SPACES,
        log_energy=energy.reshape(len(SPACES), *header.num_bytes.shape),
        embedding=embedding,
        variances=variances,
        weights=weights.double().numpy(),
        extra=extra,
    )


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


@torch.no_grad()
def predicted(members: Sequence[ResponseNetwork], graph: LayerGraph) -> tuple[np.ndarray, np.ndarray]:
    """Log energies [S, R], and embeddings [S, R, K k] whose products are the means of those of K members."""
    energies, embeddings = zip(*(member(graph) for member in members), strict=True)
    energy = torch.stack(energies).mean(dim=0).T
    embedding = torch.cat(embeddings, dim=2).transpose(0, 1) / len(members) ** 0.5
    return energy.double().numpy(), embedding.double().numpy()
