"""From trained networks to a universal ranker: each is measured on the denoiser that it has not seen."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from qsd.ranker.metrics import evaluate
from qsd.ranker.predictors import calibration_factor
from qsd.ranker.universal.data import ProbedStore
from qsd.ranker.universal.deviations import Variances
from qsd.ranker.universal.graphs import traits_text
from qsd.ranker.universal.network import SPACES, ResponseNetwork
from qsd.ranker.universal.predictor import Calibration, UniversalPredictor
from qsd.ranker.universal.universal import Seen, Universal, expected_of, predicted

_RESAMPLES = 200
_UNPROBED = Variances(offset=1.0, role=0.0, block=0.0, layer=1.0, option=1.0)
"""Of a space that no store was probed in."""


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
        seen=seen_in(stores),
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
        seen=seen_in(stores[other] for other in others),
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
            energy, _ = predicted([member], store.graph)
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
        scores, uncertain, targets = [], [], []
        metrics: dict[str, Any] = {}
        for place in places:
            store = self.stores[place]
            if not store.is_labeled:
                continue
            seen = seen_in(other for other in self.stores if other is not store)
            expected = expected_of([self.members[place]], store.data.header, variances, seen)
            rows = store.data.known_rows().numpy()
            configs = store.data.configs[rows].numpy()
            score, variance = UniversalPredictor.of(expected.given(None)).scores(configs)
            truth = store.data.targets[rows, 0].double().numpy()
            scores.append(score)
            uncertain.append(variance)
            targets.append(truth)
            metrics[store.name] = evaluate(truth, score, _RESAMPLES, seed=place)
        return calibrated(scores, uncertain, targets), metrics


def _networks(members: Sequence[torch.nn.Module]) -> list[ResponseNetwork]:
    finished = [member.eval().requires_grad_(False) for member in members]
    return [member for member in finished if isinstance(member, ResponseNetwork)]


def seen_in(stores: Iterable[ProbedStore]) -> Seen:
    """In those stores."""
    roles, options, bits = set[str](), set[str](), list[float]()
    between_roles, between_options = [], []
    for store in stores:
        header = store.data.header
        roles |= {layer.role for layer in header.layers}
        options |= {traits_text(option) for option in header.options}
        bits += [option.traits.bits for option in header.options]
        energy = store.log_energy.double().numpy() - 2 * store.graph.log_error.double().numpy()[:, None]
        gain = np.ma.masked_invalid(energy).mean(axis=1).filled(np.nan).reshape(store.shape)
        by_layer = np.nanmean(gain, axis=1)
        of_layer = np.array([layer.role for layer in header.layers])
        means = [by_layer[of_layer == role].mean() for role in np.unique(of_layer)]
        between_roles.append(float(np.var(means)))
        between_options.append(float(np.nanmean(np.nanvar(gain, axis=1))))
    return Seen(
        tuple(sorted(roles)),
        tuple(sorted(options)),
        (min(bits), max(bits)),
        float(np.mean(between_roles)),
        float(np.mean(between_options)),
    )


def calibrated(
    scores: list[np.ndarray], variances: list[np.ndarray], targets: list[np.ndarray]
) -> Calibration:
    """From scores, their variances and labels of denoisers that the networks had not seen, a list of each."""
    if not scores:
        return Calibration()
    slopes = [
        float(np.cov(score, target)[0, 1] / max(score.var(ddof=1), 1e-12))
        for score, target in zip(scores, targets, strict=True)
    ]
    slope = max(float(np.mean(slopes)), 0.05)
    missed = [target - slope * score for score, target in zip(scores, targets, strict=True)]
    intercepts = [float(values.mean()) for values in missed]
    intercept = float(np.mean(intercepts))
    between = float(np.var(intercepts, ddof=1)) if len(intercepts) > 1 else 1.0
    noise = float(np.mean([values.var() for values in missed]))
    variance = slope**2 * np.concatenate(variances) + noise + between
    factor = calibration_factor(np.concatenate(missed) - intercept, variance)
    return Calibration(slope, intercept, between, noise, factor)
