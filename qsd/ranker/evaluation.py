"""Measures a ranker on test records beside the baselines."""

import numpy as np
import torch

from qsd.ranker.baselines import BASELINES, probed_length
from qsd.ranker.data import StoreData
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.metrics import evaluate

Report = dict[str, dict[str, dict[str, float]]]
"""Predictor -> metric -> {"value", "low", "high"}."""


def compare(members: Ensemble, data: StoreData, store: int = 0, num_bootstrap: int = 1000) -> Report:
    """Metrics of the ensemble's mean and of every baseline on the test records of one store.

    Baselines learn from the training and validation records together, as the ensemble does.

    Where test records were measured again under further noise seeds, two rows more tell how well these
    measurements rank the same records, and how well the ranker does there. Configs share their noise, so a
    ranker can learn what is peculiar to the seed of its labels and rank better than another seed does.

    Args:
        members: trained, on the device of ``data.graph``.
        data: one store.
        store: its position among those that the members know.
        num_bootstrap: resamples of the test records behind the intervals.
    """
    known, test = data.known_rows(), data.test_rows()
    members.eval()
    with torch.inference_mode():
        device = data.graph.kind.device
        predicted = members.score(data.graph, data.configs[test].to(device), store).mean(dim=0).double().cpu()
    target = data.targets[:, 0].double().numpy()
    report = {"ranker": evaluate(target[test], predicted.numpy(), num_bootstrap)}
    configs = data.configs.numpy().astype(np.int8)
    for name, baseline in BASELINES.items():
        guess = baseline(data.header, configs[known], target[known], configs[test])
        report[name] = evaluate(target[test], guess, num_bootstrap)
    if data.responses is not None:
        guess = probed_length(data.responses, configs[test])
        report["length of the probed change"] = evaluate(target[test], guess, num_bootstrap)
    repeats = data.repeats[:, test].double().numpy()
    repeated = np.isfinite(repeats).all(axis=0) & bool(len(repeats))
    count = int(repeated.sum())
    if count > 2:
        wanted = target[test][repeated]
        report[f"another noise seed (ceiling), {count} records"] = evaluate(
            wanted, repeats[:, repeated], num_bootstrap
        )
        report[f"ranker, the same {count} records"] = evaluate(
            wanted, predicted.numpy()[repeated], num_bootstrap
        )
    return report
