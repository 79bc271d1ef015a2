"""Labels that a ranker predicts, as objectives of a search."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from qsd.ranker.checkpoint import Ranker
from qsd.ranker.posteriors import TARGET
from qsd.search.posterior import Posterior
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class LabelObjective:
    """A label of a ranker as something to have much of.

    Attributes:
        ranker: predicts it.
        label: its name; "target" is the ranker's target.
    """

    ranker: Ranker
    label: str

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        """The label, minus it where smaller is better; log-normal labels as minus their logarithm."""
        found = self._predicted(configs, activations)
        better = {label.name: label.larger_is_better for label in self.ranker.header.labels}
        if better.get(self.label, True):
            return found
        if found.law == "log-normal":
            found = found.logarithm()
        return Posterior(-found.mean, found.variance)

    def values(self, configs: np.ndarray) -> np.ndarray:
        """Predicted means in the label's unit, float64 [n]."""
        return self._predicted(configs).mean

    def _predicted(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        return self.ranker.posterior(configs, activations, None if self.label == TARGET else self.label)


def objectives_of(ranker: Ranker, names: Sequence[str]) -> dict[str, LabelObjective]:
    """Labels that the ranker predicts, as objectives by name.

    Raises:
        QsdError: it does not predict one of them.
    """
    for name in names:
        if name not in (TARGET, *ranker.labels):
            raise QsdError(
                f"objectives: {ranker.folder} does not predict {name!r}, only "
                f"{', '.join([TARGET, *ranker.labels])}; label the store with it or name another"
            )
    return {name: LabelObjective(ranker, name) for name in dict.fromkeys(names)}
