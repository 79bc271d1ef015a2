"""Measures a ranker on test records beside the baselines."""

import numpy as np

from qsd.ranker.baselines import BASELINES, probed_length
from qsd.ranker.metrics import evaluate
from qsd.ranker.posteriors import TARGET, Posteriors
from qsd.ranker.store_data import StoreData

Report = dict[str, dict[str, dict[str, float]]]
"""Predictor -> metric -> {"value", "low", "high"}."""


def compare(posteriors: Posteriors, data: StoreData, num_bootstrap: int = 1000) -> Report:
    """Metrics of the ranker's posterior mean and of every baseline on the test records of one store.

    Baselines learn from the training and validation records together, as the ranker does.

    Where test records were measured again under further noise seeds, three rows more are about these records.
    The headline is how the ranker ranks the labels of the *other* seeds, which is what a user gets. Beside it
    stand how it ranks those of its own seed (configs share their noise, so it learns what is peculiar to
    it), and repeatability, how well the labels of other seeds rank those of the first.

    Args:
        posteriors: of the store.
        data: the store.
        num_bootstrap: resamples of the test records behind the intervals.
    """
    known, test = data.known_rows(), data.test_rows()
    configs = data.configs.numpy().astype(np.int16)
    predicted = posteriors[TARGET].posterior(configs[test]).mean
    target = data.targets[:, 0].double().numpy()
    report = {"ranker": evaluate(target[test], predicted, num_bootstrap)}
    for name, baseline in BASELINES.items():
        if len(known) > 1:
            guess = baseline(data.header, configs[known], target[known], configs[test])
            report[name] = evaluate(target[test], guess, num_bootstrap)
    if data.responses is not None:
        guess = probed_length(data.responses, configs[test])
        report["length of the probed change"] = evaluate(target[test], guess, num_bootstrap)
    repeats = data.repeats[:, test].double().numpy()
    repeated = np.isfinite(repeats).all(axis=0) & bool(len(repeats))
    count = int(repeated.sum())
    if count > 2:
        own, others, guess = target[test][repeated], repeats[:, repeated], predicted[repeated]
        report[f"ranker, labels of other noise seeds, {count} records"] = evaluate(
            others, guess, num_bootstrap
        )
        report[f"ranker, its own seed, the same {count} records"] = evaluate(own, guess, num_bootstrap)
        report[f"repeatability of labels, the same {count} records"] = evaluate(own, others, num_bootstrap)
    return report
