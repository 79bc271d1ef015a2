"""The universal ranker as a whole: networks, what they learned on, and how wrong they were on others."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.bank import Bank
from qsd.denoisers.identity import same_denoiser
from qsd.ranker.metrics import evaluate
from qsd.ranker.universal.data import ProbedStore
from qsd.ranker.universal.deviations import Variances
from qsd.ranker.universal.expected import Expected
from qsd.ranker.universal.graphs import LayerGraph, traits_text
from qsd.ranker.universal.network import SPACES, ResponseNetwork
from qsd.ranker.universal.predictor import Calibration, UniversalPredictor, calibrated
from qsd.store import Header
from qsd.support.errors import QsdError

_RESAMPLES = 200
_UNPROBED = Variances(offset=1.0, role=0.0, block=0.0, layer=1.0, option=1.0)
"""Of a space that no store was probed in."""


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

    @classmethod
    def of(cls, stores: Iterable[ProbedStore]) -> "Seen":
        """In those stores."""
        roles, options, bits = set[str](), set[str](), list[float]()
        between_roles, between_options = [], []
        for store in stores:
            header = store.data.header
            roles |= {layer.role for layer in header.layers}
            options |= {traits_text(option) for option in header.options}
            bits += [option.traits.bits for option in header.options]
            energy = store.log_energy.double().numpy() - 2 * store.graph.log_error.double().numpy()[:, None]
            gain = np.nanmean(energy, axis=1).reshape(store.shape)
            by_layer = np.nanmean(gain, axis=1)
            of_layer = np.array([layer.role for layer in header.layers])
            means = [by_layer[of_layer == role].mean() for role in np.unique(of_layer)]
            between_roles.append(float(np.var(means)))
            between_options.append(float(np.nanmean(np.nanvar(gain, axis=1))))
        return cls(
            tuple(sorted(roles)),
            tuple(sorted(options)),
            (min(bits), max(bits)),
            float(np.mean(between_roles)),
            float(np.mean(between_options)),
        )

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


def finished(
    members: Sequence[torch.nn.Module],
    stores: Sequence[ProbedStore],
    target: str,
    hyper_parameters: dict[str, Any],
    provenance: dict[str, Any],
) -> Universal:
    """Measures each member on the store that it has not seen.

    Args:
        members: trained; member k has not seen store k.
        stores: in that order.
        target: expression.
        hyper_parameters: of the fit.
        provenance: versions, command.
    """
    ours = _networks(members)
    found = _Left.of(ours, stores)
    everyone = range(len(stores))
    variances = found.variances(everyone)
    calibration, metrics = found.calibration(everyone, variances)
    return Universal(
        members=ours,
        seen=Seen.of(stores),
        variances=variances,
        calibration=calibration,
        target=target,
        metrics=metrics,
        denoisers=[store.data.header.denoiser for store in stores],
        hyper_parameters=hyper_parameters,
        provenance=provenance,
    )


def without(
    members: Sequence[torch.nn.Module], stores: Sequence[ProbedStore], place: int, target: str
) -> Universal:
    """The one member that has not seen store ``place``, with what the others say of its errors.

    Nothing of that store enters, so one training tells how well all stores would be predicted.
    """
    ours = _networks(members)
    others = [other for other in range(len(stores)) if other != place]
    found = _Left.of(ours, stores)
    variances = found.variances(others)
    calibration, metrics = found.calibration(others, variances)
    return Universal(
        members=[ours[place]],
        seen=Seen.of(stores[other] for other in others),
        variances=variances,
        calibration=calibration,
        target=target,
        metrics=metrics,
        denoisers=[stores[other].data.header.denoiser for other in others],
    )


@dataclasses.dataclass(frozen=True)
class _Left:
    """What each member says of the store that it has not seen.

    Attributes:
        members: networks; member k has not seen store k.
        stores: in that order.
        residuals: by store, probed minus expected log energies, float64 [S, L, O].
    """

    members: list[ResponseNetwork]
    stores: Sequence[ProbedStore]
    residuals: list[np.ndarray]

    @classmethod
    def of(cls, members: list[ResponseNetwork], stores: Sequence[ProbedStore]) -> "_Left":
        residuals = []
        for member, store in zip(members, stores, strict=True):
            energy, _ = _predicted([member], store.graph)
            missed = store.log_energy.double().numpy().T - energy
            residuals.append(missed.reshape(len(SPACES), *store.shape))
        return cls(members, stores, residuals)

    def variances(self, places: Iterable[int]) -> tuple[Variances, ...]:
        """By space, of the stores at those places."""
        found = []
        for space in range(len(SPACES)):
            known = [place for place in places if np.isfinite(self.residuals[place][space]).any()]
            found.append(
                Variances.of(
                    [self.residuals[place][space] for place in known],
                    [self.stores[place].data.header for place in known],
                )
                if known
                else _UNPROBED
            )
        return tuple(found)

    def calibration(
        self, places: Iterable[int], variances: tuple[Variances, ...]
    ) -> tuple[Calibration, dict[str, Any]]:
        """On the labels of those stores, and how well these were ranked."""
        scores, spreads, targets = [], [], []
        metrics: dict[str, Any] = {}
        for place in places:
            store = self.stores[place]
            if not store.is_labeled:
                continue
            seen = Seen.of(other for other in self.stores if other is not store)
            expected = expected_of([self.members[place]], store.data.header, variances, seen)
            rows = store.data.known_rows().numpy()
            configs = store.data.configs[rows].numpy()
            score, spread = UniversalPredictor.of(expected.given(None)).scores(configs)
            truth = store.data.targets[rows, 0].double().numpy()
            scores.append(score)
            spreads.append(spread)
            targets.append(truth)
            metrics[store.name] = evaluate(truth, score, _RESAMPLES, seed=place)
        return calibrated(scores, spreads, targets), metrics


def _networks(members: Sequence[torch.nn.Module]) -> list[ResponseNetwork]:
    finished = [member.eval().requires_grad_(False) for member in members]
    return [member for member in finished if isinstance(member, ResponseNetwork)]


def expected_of(
    members: Sequence[ResponseNetwork], header: Header, variances: tuple[Variances, ...], seen: Seen
) -> Expected:
    """What networks expect of a denoiser: the mean of their log energies, and of their cosines."""
    energy, embedding = _predicted(members, LayerGraph.of(header))
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
def _predicted(members: Sequence[ResponseNetwork], graph: LayerGraph) -> tuple[np.ndarray, np.ndarray]:
    """Log energies [S, R], and embeddings [S, R, K k] whose products are the means of those of K members."""
    energies, embeddings = zip(*(member(graph) for member in members), strict=True)
    energy = torch.stack(energies).mean(dim=0).T
    embedding = torch.cat(embeddings, dim=2).transpose(0, 1) / len(members) ** 0.5
    return energy.double().numpy(), embedding.double().numpy()
