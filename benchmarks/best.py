"""What a study is worth on test records: FAMILY_best.yaml against FAMILY.yaml by number of labels.

    python benchmarks/best.py [STORE ...] [--labels 50 100 200] [--seeds 5] [--last RECORDS]
        [--out benchmarks/results/best.json]

Both settings train on the same labels, drawn by the seed, at the counts given and on all labels that a store
has, and are measured on its test records. Raw results are written after every run, and runs that are there
are not repeated unless settings or store have changed, so a stopped benchmark goes on. Prints the table of
the README: per store and count the mean Spearman correlation of the family's own settings, and by how much
that of the best is larger; last the means over all counts and over all stores. In brackets are 95 % bootstrap
intervals over test records and choices of labels, the same for both settings. With `--last` only so many test
records at the end of the stream are compared, for example those that were labeled after all else.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from label_efficiency import Run, plan, train
from measured import markdown_table
from scipy.stats import rankdata

from qsd.cli.console import bar, console
from qsd.ranker.posteriors import TARGET
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml
from qsd.zoo.registry import MINIATURES, RANKERS

RESAMPLES = 2000


def gains(runs: list[Run], target: np.ndarray, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of one store, what is measured and what resampling gives.

    Args:
        runs: of the store.
        target: float [R], of its last test records.
        labels: C counts.

    Returns:
        Mean Spearman correlation of the default and gain of the best, float [2, C], and resampled gains,
        float [B, C].
    """
    seeds = sorted({run["seed"] for run in runs})
    by_place = {(run["labels"], run["seed"]): (run["default"].split(), run["best"].split()) for run in runs}
    predicted = np.array([[by_place[count, seed] for seed in seeds] for count in labels], float)
    predicted = predicted[..., -len(target) :]
    rng = np.random.default_rng(0)
    everything = np.arange(len(target))
    rows = np.stack([everything, *rng.integers(len(target), size=(RESAMPLES, len(target)))])
    chosen = np.stack([np.arange(len(seeds)), *rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))])
    wanted = _ranks(target[rows])
    found = np.array([[[(_ranks(p[rows]) * wanted).mean(-1) for p in both] for both in c] for c in predicted])
    picked = np.take_along_axis(found, chosen.T[None, :, None, :], axis=1).mean(axis=1)  # [C, 2, 1 + B]
    default, gain = picked[:, 0], picked[:, 1] - picked[:, 0]
    return np.stack([default[:, 0], gain[:, 0]]), gain[:, 1:].T


def _ranks(values: np.ndarray) -> np.ndarray:
    """Standardized ranks along the last dimension; the mean product of two is a Spearman correlation."""
    ranks = rankdata(values, axis=-1)
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    return centred / centred.std(axis=-1, keepdims=True)


def row(measured: np.ndarray, resampled: np.ndarray) -> list[str]:
    """Cells of :func:`gains`: Spearman of the default and the gain of the best at each count; mean gain."""
    cells = [
        f"{default:.4f} {_gain(gain, of)}" for default, gain, of in zip(*measured, resampled.T, strict=True)
    ]
    return [*cells, _gain(measured[1].mean(), resampled.mean(axis=1))]


def _gain(gain: float, resampled: np.ndarray) -> str:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{gain:+.4f} ({low:+.4f} to {high:+.4f})"


def predictions(config: dict[str, Any], store: Path, labels: int, seed: int) -> str:
    """Of the test records by a ranker that was trained on so many labels: numbers of six digits."""
    posteriors, data = train(config, store, labels, seed)
    scores = posteriors[TARGET].posterior(data.configs[data.test_rows()].numpy()).mean
    return " ".join(f"{score:.6g}" for score in scores)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", default=list(MINIATURES), help="by default the six families")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--last", type=int, default=0, help="test records to compare, by default all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/best.json"))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    old = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": [], "settings": {}}
    settings = dict(old["settings"])
    wanted = []
    for store in arguments.stores:
        name = RANKERS[store]
        path = find(f"datasets/{store}.h5")
        settings[store] = {
            "records": len(Store.open(path).records.index),
            "default": read_yaml(find(name)),
            "best": read_yaml(find(name.replace(".yaml", "_best.yaml"))),
        }
        wanted += plan(settings[store]["default"], [path], arguments.labels, arguments.seeds)
    runs: list[Run] = [
        run for run in old["runs"] if settings[run["store"]] == old["settings"].get(run["store"])
    ]
    done = {(run["store"], run["labels"], run["seed"]) for run in runs}
    missing = [run for run in wanted if (run["store"], run["labels"], run["seed"]) not in done]
    with bar("Best against default") as progress:
        for position, run in enumerate(missing):
            progress(position, len(missing), f"{run['store']}, {run['labels']} labels, seed {run['seed']}")
            path = find(f"datasets/{run['store']}.h5")
            for which in ("default", "best"):
                config = settings[run["store"]][which]
                run[which] = predictions(config, path, run["labels"], run["seed"])
            runs.append(run)
            write_json(arguments.out, {"settings": settings, "runs": runs}, hashed=False)
    heading = ["test Spearman of default, gain of best", *map(str, arguments.labels), "all", "mean gain"]
    found = []
    for store in arguments.stores:
        some = [run for run in runs if run["store"] == store]
        most = max(run["labels"] for run in some)
        data = prepare(
            Store.open(find(f"datasets/{store}.h5")), Target(settings[store]["best"]["data"]["target"])
        )
        target = data.targets[data.test_rows(), 0].double().numpy()
        found.append(gains(some, target[-arguments.last :], [*arguments.labels, most]))
    rows = [[f"`{store}`", *row(*of)] for store, of in zip(arguments.stores, found, strict=True)]
    measured, resampled = (np.mean(part, axis=0) for part in zip(*found, strict=True))
    rows = [heading, *rows, ["mean", *row(measured, resampled)]]
    console.print(markdown_table(rows), soft_wrap=True)


if __name__ == "__main__":
    main()
