"""What predicts one label of one store: four models behind one question, ``posterior(configs)``.

Every one of them is calibrated on records that it was not fitted to, by leaving one out or by the folds of
the ensemble: the variance is scaled so that the central 90 % interval holds 90 % of these records.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np
import torch
from scipy.stats import norm

from qsd.ranker.additive import added_up
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.features import GraphFeatures
from qsd.ranker.process import Kernel, ResponseProcess
from qsd.ranker.scale import Scale
from qsd.search.posterior import Posterior

CONFIDENCE = 0.9
"""The central interval that is calibrated."""
_BATCH = 256


class LabelPredictor(Protocol):
    """Predicts one label (or the target) of int8 [n, L] configs."""

    @property
    def kind(self) -> str: ...
    def posterior(self, configs: np.ndarray) -> Posterior: ...
    def tensors(self) -> dict[str, np.ndarray]: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class ProcessPredictor:
    """A Gaussian process on responses.

    Attributes:
        process: conditioned on the records.
        scale: of the label.
        factor: calibrates its variance.
        configs: int8 [n, L], the records.
        warped: float64 [n], their labels.
        num_images: int64 [n], behind these; None: all alike.
    """

    process: ResponseProcess
    scale: Scale
    factor: float
    configs: np.ndarray
    warped: np.ndarray
    num_images: np.ndarray | None = None

    @property
    def kind(self) -> str:
        return "process"

    def posterior(self, configs: np.ndarray) -> Posterior:
        mean, variance = self.process(configs)
        return self.scale.posterior(mean, self.factor * variance)

    def energies(self) -> tuple[np.ndarray, ...]:
        """Minus the squared length of each option's change, by space, float64 [L, O] each."""
        return tuple((-self.process.alone.square().sum(dim=-1)).double().numpy())

    def tensors(self) -> dict[str, np.ndarray]:
        counts = {} if self.num_images is None else {"num_images": self.num_images}
        return {"configs": self.configs, "warped": self.warped, **counts, **self.process.kernel.tensors()}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale.to_json(), "factor": self.factor}

    @classmethod
    def load(
        cls, data: dict[str, Any], tensors: dict[str, np.ndarray], alone: torch.Tensor
    ) -> "ProcessPredictor":
        """From what :meth:`to_json` and :meth:`tensors` gave, and :func:`qsd.ranker.process.stacked`."""
        configs, warped = tensors["configs"], tensors["warped"]
        counts = tensors.get("num_images")
        process = ResponseProcess(alone, configs, warped, Kernel.of(tensors), counts)
        return cls(process, Scale(**data["scale"]), data["factor"], configs, warped, counts)


@dataclasses.dataclass(frozen=True)
class AdditivePredictor:
    """A sum over layers with one variance for all configs.

    Attributes:
        table: float64 [L, O], on the warped scale.
        variance: on the warped scale, calibrated.
        scale: of the label.
    """

    table: np.ndarray
    variance: float
    scale: Scale

    @property
    def kind(self) -> str:
        return "additive"

    def posterior(self, configs: np.ndarray) -> Posterior:
        return self.scale.posterior(added_up(self.table, configs), np.full(len(configs), self.variance))

    def tensors(self) -> dict[str, np.ndarray]:
        return {"table": self.table}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale.to_json(), "variance": self.variance}


@dataclasses.dataclass(frozen=True)
class EnsemblePredictor:
    """Members of an ensemble: their mean, and a variance that grows where they disagree.

    Attributes:
        members: trained.
        graph: features of the denoiser.
        store: its position among those that the members know.
        factor: of the variance over members.
        variance: added to it, in the target's unit.
    """

    members: Ensemble
    graph: GraphFeatures
    store: int
    factor: float
    variance: float

    @property
    def kind(self) -> str:
        return "ensemble"

    def posterior(self, configs: np.ndarray) -> Posterior:
        scores = scores_of(self.members, self.graph, configs, self.store)
        return Posterior(scores.mean(axis=0), self.factor * scores.var(axis=0) + self.variance)

    def tensors(self) -> dict[str, np.ndarray]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "factor": self.factor, "variance": self.variance}


@dataclasses.dataclass(frozen=True)
class CorrectedPredictor:
    """A closed form whose mean the graph networks correct.

    Attributes:
        base: the closed form.
        members: whose mean correction is added, in the target's unit.
        graph: features of the denoiser.
        store: its position among those that the members know.
    """

    base: ProcessPredictor | AdditivePredictor
    members: Ensemble
    graph: GraphFeatures
    store: int

    @property
    def kind(self) -> str:
        """That of the closed form; the members are stored with the ranker."""
        return self.base.kind

    def posterior(self, configs: np.ndarray) -> Posterior:
        found = self.base.posterior(configs)
        corrected = scores_of(self.members, self.graph, configs, self.store)
        plain = scores_of(self.members, self.graph, configs, self.store, corrected=False)
        return dataclasses.replace(found, mean=found.mean + (corrected - plain).mean(axis=0))

    def energies(self) -> tuple[np.ndarray, ...]:
        """Those of the closed form."""
        return self.base.energies() if isinstance(self.base, ProcessPredictor) else ()

    def tensors(self) -> dict[str, np.ndarray]:
        return self.base.tensors()

    def to_json(self) -> dict[str, Any]:
        return self.base.to_json()


@dataclasses.dataclass(frozen=True)
class LengthPredictor:
    """No label needed: minus the logarithm of the squared length of the summed probed change.

    To first order that is the mean square change of features, or of latents. The logarithm of a label's
    damage follows it with a slope near 1; how far it strays is expected, not measured.

    Attributes:
        change: float64 [L, O, d], of one space.
        variance: expected, of the logarithm.
        sign: -1 for a score (larger is better); 1 for a label that is such a square itself (latent MSE).
    """

    change: np.ndarray
    variance: float = 0.25
    sign: int = -1

    @property
    def kind(self) -> str:
        return "length"

    def posterior(self, configs: np.ndarray) -> Posterior:
        square = np.concatenate(
            [
                np.square(added_up(self.change, configs[start : start + _BATCH])).sum(axis=1)
                for start in range(0, max(len(configs), 1), _BATCH)
            ]
        )
        mean = np.log(np.maximum(square, 1e-30))
        variance = np.full(len(mean), self.variance)
        return Posterior.of_logarithm(mean, variance) if self.sign > 0 else Posterior(-mean, variance)

    def energies(self) -> tuple[np.ndarray, ...]:
        """Minus the squared length of each option's change, float64 [L, O]."""
        return (-np.square(self.change).sum(axis=-1),)

    def tensors(self) -> dict[str, np.ndarray]:
        return {"change": self.change}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "variance": self.variance, "sign": self.sign}


def scores_of(
    members: Ensemble, graph: GraphFeatures, configs: np.ndarray, store: int, *, corrected: bool = True
) -> np.ndarray:
    """What each member predicts, in the target's unit, float64 [K, n]."""
    if not len(configs):
        return np.zeros((len(members), 0))
    device = graph.kind.device
    with torch.inference_mode():
        parts = [
            members.score(graph, part.to(device), store, corrected=corrected).double().cpu()
            for part in torch.from_numpy(configs.astype(np.int64)).split(_BATCH)
        ]
    return torch.cat(parts, dim=1).numpy()


def calibration_factor(deviation: np.ndarray, variance: np.ndarray) -> float:
    """By how much variances [n] must grow for the 90 % interval to hold 90 % of deviations [n]."""
    ratios = np.abs(deviation) / np.sqrt(np.maximum(variance, 1e-300))
    reach = float(np.quantile(ratios, CONFIDENCE, method="higher"))
    return max((reach / norm.ppf(0.5 + CONFIDENCE / 2)) ** 2, 1e-12)
