"""How far log energies are from what a network expects, and what probes of some layers say of the others.

Deviations are sums of independent normal ones: of all layers of a role, of all layers of a block, of a layer,
and of each of its options. That is a linear model with normal weights (Rasmussen and Williams, "Gaussian
processes for machine learning", 2006, section 2.1), so conditioning on probes costs the cube of the number of
roles, blocks and layers, whatever the number of options.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from qsd.store import Header

KINDS = ("role", "block", "layer", "option")


@dataclasses.dataclass(frozen=True)
class Variances:
    """Of deviations of natural logarithms of energies.

    Attributes:
        offset: shared by a whole denoiser.
        role: shared by its layers of one role.
        block: shared by the layers of one block.
        layer: shared by the options of one layer.
        option: of one option of one layer.
    """

    offset: float
    role: float
    block: float
    layer: float
    option: float

    @classmethod
    def of(cls, residuals: Sequence[np.ndarray], headers: Sequence[Header]) -> "Variances":
        """From deviations [L, O] (NaN: unknown) of denoisers that the networks had not seen, by moments."""
        offsets = [float(np.nanmean(residual)) for residual in residuals]
        sums, counts = np.zeros(5), np.zeros(5)
        for residual, offset, header in zip(residuals, offsets, headers, strict=True):
            own = residual - offset
            known = np.isfinite(own)
            filled = np.where(known, own, 0.0)
            total, number = filled.sum(axis=1), known.sum(axis=1)  # by layer
            squares, pairs = np.outer(total, total), np.outer(number, number).astype(np.float64)
            role, block = _alike(header)
            apart = ~np.eye(len(own), dtype=bool)
            for place, mask in enumerate(
                (apart & role, apart & block & ~role, apart & ~role & ~block)
            ):  # pairs of layers
                sums[place] += squares[mask].sum()
                counts[place] += pairs[mask].sum()
            sums[3] += (total**2).sum() - (filled**2).sum()  # pairs of options of a layer
            counts[3] += (number**2).sum() - number.sum()
            sums[4] += (filled**2).sum()
            counts[4] += number.sum()
        of_role, of_block, rest, of_layer, whole = sums / np.maximum(counts, 1)
        role_variance, block_variance = max(of_role - rest, 0.0), max(of_block - rest, 0.0)
        layer_variance = max(of_layer - rest - role_variance - block_variance, 0.0)
        return cls(
            offset=max(float(np.var(offsets, ddof=1)) if len(offsets) > 1 else 1.0, 1e-3),
            role=float(role_variance),
            block=float(block_variance),
            layer=float(layer_variance),
            option=float(max(whole - of_layer, 1e-3)),
        )


@dataclasses.dataclass(frozen=True)
class Deviations:
    """The posterior of deviations. R pairs of layer and option, P shared parts.

    Attributes:
        mean: float64 [R].
        factor: float64 [R, P]; shared parts have the covariance ``factor @ factor.T``.
        own: float64 [R], variance of what a pair does not share.
    """

    mean: np.ndarray
    factor: np.ndarray
    own: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """float64 [R]."""
        return np.square(self.factor).sum(axis=1) + self.own


def deviations(
    header: Header, variances: Variances, observed: np.ndarray, extra: np.ndarray | None = None
) -> Deviations:
    """Conditions on the layers that were probed.

    Args:
        header: of the denoiser, L layers and O options.
        variances: of the deviations.
        observed: float64 [L, O], deviations of probed layers; NaN elsewhere.
        extra: float64 [L, O], variance added to what a pair does not share; None for none.
    """
    layers, options = observed.shape
    features = _shared(header, variances, options)
    seen = np.isfinite(observed).ravel()
    own = np.full(layers * options, variances.option) + (0.0 if extra is None else extra.ravel())
    offset = np.nanmean(observed) if seen.any() else 0.0
    known, noise = features[seen], own[seen]
    values = observed.ravel()[seen] - offset
    precision = np.eye(features.shape[1]) + (known / noise[:, None]).T @ known
    factored = cho_factor(precision, lower=True)
    weights = cho_solve(factored, (known / noise[:, None]).T @ values)
    # covariance of the weights is the inverse of precision = lower @ lower.T
    lower = np.tril(factored[0])
    posterior = np.linalg.solve(lower, features.T).T
    mean = offset + features @ weights
    mean[seen] = observed.ravel()[seen]
    posterior[seen], own[seen] = 0.0, 0.0
    return Deviations(mean, posterior, own)


def _alike(header: Header) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of layers of the same role, and of the same block, each bool [L, L]."""
    roles = np.array([layer.role for layer in header.layers])
    blocks = np.array([layer.block for layer in header.layers])
    return roles[:, None] == roles, (blocks[:, None] == blocks) & (blocks >= 0)


def _shared(header: Header, variances: Variances, options: int) -> np.ndarray:
    """Loadings of pairs on shared parts, float64 [R, P]; their products are prior covariances."""
    roles = np.array([layer.role for layer in header.layers])
    blocks = np.array([layer.block for layer in header.layers])
    inside = np.unique(blocks[blocks >= 0])
    parts = np.concatenate(
        [
            variances.role**0.5 * (roles[:, None] == np.unique(roles)),
            variances.block**0.5 * (blocks[:, None] == inside),
            variances.layer**0.5 * np.eye(len(roles)),
        ],
        axis=1,
    )
    return np.repeat(parts, options, axis=0)
