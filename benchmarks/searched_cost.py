"""When a search with few labels finds what one with all of them finds: for `label_cost.py --searched`."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

import qsd.api as api
from qsd.bank import Bank
from qsd.evaluation import EvaluationSettings
from qsd.labels import Job, Measurer
from qsd.ranker.checkpoint import load_ranker, save_ranker
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.store_data import StoreData

IMAGES = 500
FRESH = (1_000, 1_001, 1_002, 1_003)
"""Noise seeds of all measurements; labels have small ones."""


def fitted(data: StoreData, rows: np.ndarray) -> Any:
    """Posteriors that have seen only these records."""
    fold = data.fold.clone()
    fold[:] = -1
    fold[rows] = 0
    return fit_posteriors(Ensemble(), dataclasses.replace(data, fold=fold))


@dataclasses.dataclass(frozen=True)
class Goal:
    """What the search with all labels found.

    Attributes:
        fid: its measured FID, mean over :data:`FRESH`.
        reach: half of the 90 % interval of that mean.
    """

    fid: float
    reach: float


class Searches:
    """Searches with what some labels tell, and measures what they find.

    Args:
        pipe: at full precision, the one that the store was labeled with.
        bank: of its denoiser, with the options of the store.
        evaluation: of the store; FID alone is measured, on 500 images a noise seed.
        target: expression that configs are searched for.
        bits: budget, average bits per weight.
    """

    def __init__(
        self, pipe: Any, bank: Bank, evaluation: EvaluationSettings, target: str, bits: float
    ) -> None:
        self._bank, self._target, self._bits = bank, target, bits
        few = dataclasses.replace(evaluation, num_images=IMAGES, clip=None)
        self._measurer = Measurer(pipe, bank, few)
        self._known: dict[bytes, list[float]] = {}

    def goal(self, data: StoreData, rows: np.ndarray) -> Goal:
        """What the search finds with all labels."""
        values = self.found(data, rows)
        reach = t.ppf(0.95, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        return Goal(float(np.mean(values)), float(reach))

    def labels_until(
        self, goal: Goal, data: StoreData, order: np.ndarray, counts: Sequence[int]
    ) -> tuple[float, float]:
        """Labels, in that order, until the FID found is within the goal's interval or lower; and that FID.

        The number of labels is NaN where none does.
        """
        fid = float("nan")
        for count in counts:
            fid = float(np.mean(self.found(data, order[:count])))
            if fid <= goal.fid + goal.reach:
                return count, fid
        return float("nan"), fid

    def found(self, data: StoreData, rows: np.ndarray) -> list[float]:
        """Measured FID, by noise seed, of the config that is found with these records."""
        # stores of version 0.1.0 identify their denoiser in another way
        data = dataclasses.replace(
            data, header=dataclasses.replace(data.header, denoiser=self._bank.denoiser)
        )
        with tempfile.TemporaryDirectory() as folder:
            posteriors = [fitted(data, rows)]
            save_ranker(
                *(Path(folder) / "ranker", Ensemble(), [data.header], self._target, posteriors),
                network=NetworkSettings(),
            )
            front = api.search(load_ranker(Path(folder) / "ranker"), self._bank, max_bits=self._bits)
        config = front.best()
        key = config.tobytes()
        if key not in self._known:
            jobs = [Job(0, config, seed) for seed in FRESH]
            self._known[key] = [labels["fid"] for _, labels, _ in self._measurer.run(jobs)]
        return self._known[key]
