"""What the universal ranker expects of one denoiser, and what it becomes once some layers are probed."""

import dataclasses

import numpy as np

from qsd.ranker.universal.deviations import Deviations, Variances, deviations
from qsd.store import Header, Responses

_SMALLEST = 1e-12
_COORDINATES = 2048  # of what changes do not share; more pairs are thrown together by random signs
_LONGEST = 0.98  # share of a change that others explain
_ROUNDS = 16  # in which layers to probe are chosen
_MOST_VARIANCE = 4.0  # of a log energy; wider than that, a log-normal is all tail


@dataclasses.dataclass(frozen=True)
class Expected:
    """Before anything was measured. L layers, O options, S spaces.

    Attributes:
        header: of the denoiser.
        spaces: S names.
        log_energy: float64 [S, L, O], natural logarithm of squared lengths.
        embedding: float64 [S, L * O, k]; inner products are cosines of changes of different layers.
        variances: by space, of the deviations from ``log_energy``.
        weights: float64 [S], how much each space's log energy says about the target.
        extra: float64 [L, O], further variance where a role or an option is new to the networks.
    """

    header: Header
    spaces: tuple[str, ...]
    log_energy: np.ndarray
    embedding: np.ndarray
    variances: tuple[Variances, ...]
    weights: np.ndarray
    extra: np.ndarray

    def given(self, measured: Responses | None) -> "Completed":
        """With what was probed.

        Args:
            measured: coordinates (no sketches), NaN for layers that were not probed; None for none.
        """
        found = [self._deviations(place, measured) for place in range(len(self.spaces))]
        changes = [self._changes(place, found[place].mean, measured) for place in range(len(self.spaces))]
        num_images, noise_seed = (measured.num_images, measured.noise_seed) if measured else (1, 0)
        shared, rest = tuple(one for one, _ in changes), tuple(one for _, one in changes)
        return Completed(self, shared, rest, tuple(found), num_images, noise_seed)

    def least_predictable(self, count: int, measured: np.ndarray) -> list[int]:
        """Layers to probe: those whose energies are least certain, given that earlier ones are measured.

        Energies are taken for log-normal, so one that is uncertain and small matters less than one that is
        large. What is found does not change how uncertain the others are, so all are chosen in advance.

        Args:
            count: how many, beside those measured.
            measured: bool [L].
        """
        layers = len(measured)
        known, chosen = measured.copy(), list[int]()
        while len(chosen) < min(count, int(layers - measured.sum())):
            observed = np.where(known[:, None] & self.header.available, 0.0, np.nan)
            found = [deviations(self.header, own, observed, self.extra) for own in self.variances]
            uncertain = np.where(known, -1.0, self._uncertainty(found))
            step = min(max(1, count // _ROUNDS), count - len(chosen))
            for layer in np.argsort(-uncertain, kind="stable")[:step].tolist():
                chosen.append(layer)
                known[layer] = True
        return chosen

    def _uncertainty(self, found: list[Deviations]) -> np.ndarray:
        """By layer, the largest variance of an option's energy, spaces by their weights, float64 [L]."""
        total = np.zeros(self.log_energy.shape[1:])
        for place, known in enumerate(found):
            location = self.log_energy[place].ravel() + known.mean
            variance = np.minimum(known.variance, _MOST_VARIANCE)
            energy = np.exp(location - location.max() + variance / 2)
            total += self.weights[place] * (np.expm1(variance) * energy**2).reshape(total.shape)
        return np.asarray(np.where(self.header.available, total, 0.0).max(axis=1))

    def _deviations(self, place: int, measured: Responses | None) -> Deviations:
        observed = np.full(self.log_energy.shape[1:], np.nan)
        if measured is not None and self.spaces[place] in measured.spaces:
            square = np.square(measured.spaces[self.spaces[place]].astype(np.float64)).sum(axis=2)
            usable = np.isfinite(square) & self.header.available
            observed[usable] = np.log(square[usable].clip(_SMALLEST)) - self.log_energy[place][usable]
        return deviations(self.header, self.variances[place], observed, self.extra)

    def _changes(
        self, place: int, deviation: np.ndarray, measured: Responses | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Changes, as measured; else along those measured, and the rest in a direction of its own.

        Each coordinate of a change of length 1 is taken for a normal variable whose covariances are the
        expected cosines, so its mean given those measured is a linear function of theirs.

        Returns:
            Coordinates that changes share, float32 [L, O, d], and lengths of the rests, float64 [L, O].
        """
        shape = self.log_energy.shape[1:]
        length = np.exp((self.log_energy[place].ravel() + deviation) / 2)
        length[~self.header.available.ravel()] = 0.0
        embedding = self.embedding[place]
        known, units = self._measured(place, measured)
        unknown = ~known
        along = embedding[unknown]
        if known.any():
            cosines = embedding[known] @ embedding[known].T
            np.fill_diagonal(cosines, 1.0)
            cosines[np.diag_indices(len(cosines))] += 1e-3
            pull = np.linalg.solve(cosines, embedding[known] @ along.T).T  # [unknown, known]
            left = along - pull @ embedding[known]  # what the embedding shares with those unmeasured alone
            along = np.concatenate([pull @ units[known], left], axis=1)
        size = np.linalg.norm(along, axis=1)
        along *= np.minimum(1.0, _LONGEST / np.maximum(size, _SMALLEST))[:, None]
        shared = np.zeros((len(length), along.shape[1]))
        shared[unknown] = along * length[unknown, None]
        shared[known, : units.shape[1]] = units[known] * length[known, None]
        rest = np.zeros(len(length))
        rest[unknown] = np.sqrt(1 - np.square(along).sum(axis=1)) * length[unknown]
        return shared.reshape(*shape, -1).astype(np.float32), rest.reshape(shape)

    def _measured(self, place: int, measured: Responses | None) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs were measured, bool [R], and their directions, float64 [R, d]."""
        rows = self.log_energy[place].size
        if measured is None or self.spaces[place] not in measured.spaces:
            return np.zeros(rows, dtype=bool), np.zeros((rows, 0))
        values = measured.spaces[self.spaces[place]].reshape(rows, -1).astype(np.float64)
        known = np.asarray(np.isfinite(values).all(axis=1))
        size = np.linalg.norm(values, axis=1, keepdims=True)
        return known, np.where(known[:, None], values / np.maximum(size, _SMALLEST), 0.0)


@dataclasses.dataclass(frozen=True)
class Completed:
    """What is expected of a denoiser given what was measured of it.

    Attributes:
        expected: before.
        shared: by space, float32 [L, O, d], coordinates of changes along directions that several share.
        rest: by space, float64 [L, O], lengths of what is orthogonal to them and to each other.
        deviations: by space, what is known of log energies.
        num_images, noise_seed: of what was measured.
    """

    expected: Expected
    shared: tuple[np.ndarray, ...]
    rest: tuple[np.ndarray, ...]
    deviations: tuple[Deviations, ...]
    num_images: int = 1
    noise_seed: int = 0

    @property
    def responses(self) -> Responses:
        """Of all layers, measured or not."""
        spaces = {}
        for name, shared, rest in zip(self.expected.spaces, self.shared, self.rest, strict=True):
            unknown = rest.ravel() > 0
            own = np.zeros((rest.size, min(int(unknown.sum()), _COORDINATES)), np.float32)
            own[unknown] = _own_directions(int(unknown.sum())) * rest.ravel()[unknown, None]
            spaces[name] = np.concatenate([shared, own.reshape(*rest.shape, -1)], axis=2)
        return Responses(spaces, self.num_images, self.noise_seed)


def _own_directions(count: int) -> np.ndarray:
    """Unit vectors, orthogonal as long as there are coordinates enough, float64 [count, d]."""
    if count <= _COORDINATES:
        return np.eye(count)
    signs = np.random.default_rng(0).integers(0, 2, (count, _COORDINATES)) * 2.0 - 1.0
    return np.asarray(signs / _COORDINATES**0.5)
