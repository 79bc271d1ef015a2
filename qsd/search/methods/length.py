"""No labels: the shortest summed change of the images, from a probed store alone.

To first order a config changes the drawn images by the sum of the changes that its options make alone, which
`qsd probe` measures on a few images. The squared length of that sum is the mean square change of the images'
features (or latents), so the search minimises it; errors that cancel are found, which no sum of scores sees.
"""

from dataclasses import dataclass

import numpy as np

from qsd.search.front import Front
from qsd.search.methods.evolution import evolved
from qsd.search.posterior import Posterior
from qsd.search.task import Task

_BATCH = 256


@dataclass(frozen=True)
class ChangeLength:
    """Minus the logarithm of the squared length of the summed change.

    The logarithm of a label's damage follows it with a slope near 1; how far it strays is expected, not
    measured.

    Attributes:
        change: float [L, O, d], of each option alone, in one space.
        variance: Expected, of the logarithm.
        sign: -1 for a score (larger is better); 1 for a label that is such a square itself (latent MSE).
    """

    change: np.ndarray
    variance: float = 0.25
    sign: int = -1

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        """Of int8 [n, L] configs; activations are ignored."""
        flat = np.nan_to_num(self.change.astype(np.float32)).reshape(-1, self.change.shape[-1])
        start = np.arange(self.change.shape[0]) * self.change.shape[1]
        square = np.zeros(len(configs))
        for row in range(0, len(configs), _BATCH):
            part = start + configs[row : row + _BATCH].astype(np.int64)
            chosen = np.zeros((len(part), len(flat)), dtype=np.float32)
            np.put_along_axis(chosen, part, 1.0, axis=1)
            square[row : row + _BATCH] = np.square(chosen @ flat, dtype=np.float64).sum(axis=1)
        mean = np.log(np.maximum(square, 1e-30))
        variance = np.full(len(mean), self.variance)
        return Posterior.of_logarithm(mean, variance) if self.sign > 0 else Posterior(-mean, variance)


def search(task: Task) -> Front:
    """Evolution over the length of the summed change: the task's predictor is a `ChangeLength`."""
    return evolved(task, "length")


def energies(change: np.ndarray) -> np.ndarray:
    """Minus the squared length of each option's change alone, float64 [L, O] of float [L, O, d]."""
    return -np.square(change.astype(np.float64)).sum(axis=-1)
