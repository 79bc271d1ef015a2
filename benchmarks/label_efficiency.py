"""How many labels a ranker needs: test metrics of the ranker and of the baselines by number of labels.

    python benchmarks/label_efficiency.py [STORE ...] [--config pixart.yaml] [--labels 25 50 100 200 250 400]
        [--seeds 5] [--epochs 0] [--network closed_form=additive graph_head=false] [--out benchmarks/results]

Stores are by default all in `datasets`. Each is measured at the label counts that it has, and at all that it
has. A run draws its labels from the training and validation records (folds included) by its seed, trains with
the settings of the config (with --epochs 0 its closed form alone, in seconds), and is measured on all test
records of the store. Raw results go to `label_efficiency.json` after every run, and runs of the same store
that are in it are not repeated, so a stopped benchmark goes on; other settings need another `--out`.
`label_efficiency.md` has the means and standard deviations over seeds, `label_efficiency.png` a panel per
store.
"""

import argparse
import itertools
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import matplotlib
import numpy as np
import yaml
from stores import shipped_stores

from qsd.cli.console import bar, console
from qsd.ranker.data import StoreDataModule
from qsd.ranker.evaluation import compare
from qsd.ranker.module import RankerModule
from qsd.ranker.posteriors import Posteriors, fit_posteriors
from qsd.ranker.store_data import StoreData, prepare
from qsd.ranker.target import Target
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.files import atomic
from qsd.support.hashing import json_hash
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

matplotlib.use("Agg")
from matplotlib import pyplot

SHOWN = ("spearman", "top10_regret", "best_of_10_regret")
Run = dict[str, Any]
"""store, labels, seed, and report: predictor -> metric -> value on the test records."""
Summary = dict[str, dict[int, dict[str, tuple[float, float]]]]
"""Predictor -> number of labels -> metric -> (mean, standard deviation) over seeds."""


def train(config: dict[str, Any], store: Path, labels: int, seed: int) -> tuple[Posteriors, StoreData]:
    """Trains once on so many labels of a store, drawn by the seed; the ranker and the store's records."""
    lightning.seed_everything(seed, verbose=False)
    settings = {**config["data"], "stores": [str(store)], "max_labels": labels, "seed": seed, "labels": []}
    module, data = RankerModule(**config.get("model", {})), StoreDataModule(**settings)
    kept = ("max_epochs", "accelerator", "gradient_clip_val")
    trainer = lightning.Trainer(
        **{key: value for key, value in config["trainer"].items() if key in kept},
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    module.members.calibrate(data.stores)
    return fit_posteriors(module.members, data.stores[0], settings=module.responses), data.stores[0]


def run_once(config: dict[str, Any], store: Path, labels: int, seed: int) -> dict[str, dict[str, float]]:
    """Trains once and measures; predictor -> metric -> value."""
    report = compare(*train(config, store, labels, seed), num_bootstrap=0)
    return {
        predictor: {metric: entry["value"] for metric, entry in row.items()}
        for predictor, row in report.items()
        if "records" not in predictor  # repeated labels are measured on fewer
    }


def plan(config: dict[str, Any], stores: list[Path], labels: list[int], seeds: int) -> list[Run]:
    """Runs to do, without their reports: every count that a store has, and all its labels."""
    runs: list[Run] = []
    for path in stores:
        store = Store.open(path)
        facts = [list(map(str, store.header.options)), len(store.records), store.header.conditions]
        data = prepare(store, Target(config["data"]["target"]), folds=config["data"]["folds"])
        most = len(data.known_rows())
        counts = sorted({*(count for count in labels if count < most), most})
        runs += [
            {"store": path.stem, "of": json_hash(facts)[:8], "labels": count, "seed": seed}
            for seed in range(seeds)
            for count in counts
        ]
    return runs


def summarize(runs: list[Run]) -> Summary:
    """Means and standard deviations of one store's runs."""
    summary: Summary = {}
    for labels in sorted({run["labels"] for run in runs}):
        reports = [run["report"] for run in runs if run["labels"] == labels]
        for predictor in reports[0]:
            for metric in SHOWN:
                values = [report[predictor][metric] for report in reports]
                row = summary.setdefault(predictor, {}).setdefault(labels, {})
                row[metric] = (float(np.mean(values)), float(np.std(values)))
    return summary


def table(summary: Summary, store: str) -> str:
    """Markdown, one table per metric."""
    lines = []
    for metric in SHOWN:
        counts = list(next(iter(summary.values())))
        lines += [f"{store}: {metric.replace('_', ' ')} (mean ± s.d. over seeds) by number of labels", ""]
        lines += [f"| | {' | '.join(map(str, counts))} |", f"|---|{'---:|' * len(counts)}"]
        for predictor, row in summary.items():
            cells = [f"{row[count][metric][0]:.3f} ± {row[count][metric][1]:.3f}" for count in counts]
            lines.append(f"| {predictor} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(summaries: dict[str, Summary], path: Path) -> None:
    """Spearman over the number of labels with one standard deviation, a panel per store."""
    columns = min(3, len(summaries))
    rows = -(-len(summaries) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.5 * columns, 3.5 * rows + 0.4), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(summaries) :]:
        axis.set_visible(False)
    for axis, (store, summary) in zip(axes.flat, summaries.items(), strict=False):
        for predictor, row in summary.items():
            means, deviations = np.array([row[count]["spearman"] for count in row]).T
            axis.errorbar(list(row), means, deviations, label=predictor, marker="o", capsize=2)
        axis.set(xscale="log", xlabel="labels", ylabel="test Spearman", title=store)
        counts = list(row)
        apart = [count for count, after in itertools.pairwise(counts) if after > 1.1 * count]
        axis.set_xticks([*apart, counts[-1]], list(map(str, [*apart, counts[-1]])), rotation=45)
        axis.minorticks_off()
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", help="by default all in datasets")
    parser.add_argument("--config", default="pixart.yaml")
    parser.add_argument("--labels", type=int, nargs="+", default=[25, 50, 100, 200, 250, 400])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="in place of the config's")
    parser.add_argument(
        "--network", nargs="+", default=[], metavar="KEY=VALUE", help="settings in place of the config's"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    config = read_yaml(find(arguments.config))
    if arguments.epochs is not None:
        config["trainer"]["max_epochs"] = arguments.epochs
    for setting in arguments.network:
        key, value = setting.split("=")
        config["model"]["network"][key] = yaml.safe_load(value)
    found = [find(store) for store in arguments.stores]
    stores = {path.stem: path for path in found or shipped_stores()}
    raw = arguments.out / "label_efficiency.json"
    settings = {name: config[name] for name in ("data", "model", "trainer")}
    empty: dict[str, Any] = {"settings": settings, "runs": []}
    old = json.loads(raw.read_text()) if raw.exists() else empty
    if old["settings"] != settings:
        parser.error(f"{raw}: measured with other settings; give another --out")
    runs: list[Run] = old["runs"]
    wanted = plan(config, list(stores.values()), arguments.labels, arguments.seeds)
    now = {run["store"]: run["of"] for run in wanted}
    runs = [run for run in runs if now.get(run["store"], run["of"]) == run["of"]]  # not of a former store
    done = {(run["store"], run["labels"], run["seed"]) for run in runs}
    missing = [run for run in wanted if (run["store"], run["labels"], run["seed"]) not in done]
    with bar("Label efficiency") as progress:
        for position, run in enumerate(missing):
            name = f"{run['store']}, {run['labels']} labels, seed {run['seed']}"
            progress(position, len(missing), name)
            run["report"] = run_once(config, stores[run["store"]], run["labels"], run["seed"])
            runs.append(run)
            write_json(raw, {"settings": settings, "runs": runs}, hashed=False)
    summaries = {
        store: summarize([run for run in runs if run["store"] == store])
        for store in sorted({run["store"] for run in runs})
    }
    text = "\n".join(table(summary, store) for store, summary in summaries.items())
    with atomic(arguments.out / "label_efficiency.md") as temporary:
        temporary.write_text(text)
    plot(summaries, arguments.out / "label_efficiency.png")
    console.print(text)


if __name__ == "__main__":
    main()
