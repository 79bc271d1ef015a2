"""How many labels a ranker needs: test metrics of the ranker and of the baselines by number of labels.

    python benchmarks/label_efficiency.py [--config pixart.yaml] [--labels 25 50 100 200 400] [--seeds 5]
        [--out runs/label_efficiency]

Every run draws its labels from the training and validation records (folds included) and is measured on all
test records of the store. Means and standard deviations over seeds go to `table.md`, `results.json` and
`plot.png`. Runs that are in `results.json` already are not repeated, so a stopped benchmark goes on.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import lightning
import matplotlib
import numpy as np
import yaml

from qsd.configs import write_json
from qsd.data import StoreDataModule
from qsd.paths import find
from qsd.ranker.evaluation import compare
from qsd.ranker.module import RankerModule

matplotlib.use("Agg")
from matplotlib import pyplot

SHOWN = ("spearman", "relative_top10_regret")
FULL = 400  # fewer labels make shorter epochs, so fewer labels get more of them
MOST_EPOCHS = 300


def run_once(config: dict[str, Any], store: str, labels: int, seed: int) -> dict[str, dict[str, float]]:
    """Trains once and measures; predictor -> metric -> value on the test records."""
    lightning.seed_everything(seed, verbose=False)
    settings = {**config["data"], "stores": [store], "max_labels": labels, "seed": seed}
    module, data = RankerModule(**config.get("model", {})), StoreDataModule(**settings)
    epochs = config["trainer"]["max_epochs"]
    trainer = lightning.Trainer(
        max_epochs=min(MOST_EPOCHS, round(epochs * max(1.0, FULL / labels))),
        accelerator=config["trainer"].get("accelerator", "auto"),
        gradient_clip_val=config["trainer"].get("gradient_clip_val"),
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    module.members.calibrate(data.stores)
    report = compare(module.members, data.stores[0], num_bootstrap=0)
    return {
        predictor: {metric: entry["value"] for metric, entry in row.items()}
        for predictor, row in report.items()
    }


def summarize(runs: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, tuple[float, float]]]]:
    """Predictor -> number of labels -> metric -> (mean, standard deviation) over seeds."""
    summary: dict[str, dict[int, dict[str, tuple[float, float]]]] = {}
    for labels in sorted({run["labels"] for run in runs}):
        reports = [run["report"] for run in runs if run["labels"] == labels]
        for predictor in reports[0]:
            for metric in SHOWN:
                values = [report[predictor][metric] for report in reports]
                row = summary.setdefault(predictor, {}).setdefault(labels, {})
                row[metric] = (float(np.mean(values)), float(np.std(values)))
    return summary


def table(summary: dict[str, dict[int, dict[str, tuple[float, float]]]], store: str) -> str:
    """Markdown, one table per metric."""
    lines = []
    for metric in SHOWN:
        counts = list(next(iter(summary.values())))
        lines += [f"{store}: {metric.replace('_', ' ')} (mean ± s.d. over seeds) by number of labels", ""]
        lines += [f"| | {' | '.join(map(str, counts))} |", f"|---|{'---|' * len(counts)}"]
        for predictor, row in summary.items():
            cells = [f"{row[count][metric][0]:.3f} ± {row[count][metric][1]:.3f}" for count in counts]
            lines.append(f"| {predictor} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(summary: dict[str, dict[int, dict[str, tuple[float, float]]]], title: str, path: Path) -> None:
    """Metrics over the number of labels, with one standard deviation."""
    figure, axes = pyplot.subplots(1, len(SHOWN), figsize=(5 * len(SHOWN), 4))
    for axis, metric in zip(axes, SHOWN, strict=True):
        for predictor, row in summary.items():
            means, deviations = np.array([row[count][metric] for count in row]).T
            axis.errorbar(list(row), means, deviations, label=predictor, marker="o", capsize=2)
        axis.set(xscale="log", xlabel="labels", ylabel=metric.replace("_", " "), title=title)
        axis.set_xticks(list(row), list(map(str, row)))
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="pixart.yaml")
    parser.add_argument("--labels", type=int, nargs="+", default=[25, 50, 100, 200, 400])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/label_efficiency"))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    config = yaml.safe_load(find(arguments.config).read_text())
    for store in config["data"]["stores"]:
        out = arguments.out / Path(store).stem
        results = out / "results.json"
        runs = json.loads(results.read_text())["runs"] if results.exists() else []
        done = {(run["labels"], run["seed"]) for run in runs}
        for labels in arguments.labels:
            for seed in range(arguments.seeds):
                if (labels, seed) not in done:
                    report = run_once(config, store, labels, seed)
                    runs.append({"labels": labels, "seed": seed, "report": report})
                    write_json(results, {"store": store, "runs": runs})
                    print(
                        f"{store}: {labels} labels, seed {seed}: {report['ranker']['spearman']:.3f}",
                        flush=True,
                    )
        summary = summarize(runs)
        (out / "table.md").write_text(table(summary, Path(store).stem))
        plot(summary, Path(store).stem, out / "plot.png")
        print(table(summary, Path(store).stem))


if __name__ == "__main__":
    main()
