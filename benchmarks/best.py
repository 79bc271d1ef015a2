"""What a study is worth on test records: FAMILY_best.yaml against FAMILY.yaml by number of labels.

    python benchmarks/best.py [STORE ...] [--labels 50 100 200] [--seeds 5]
        [--out benchmarks/results/best.json]

Both settings train on the same labels, drawn by the seed, at the counts given and on all labels that a store
has, and are measured on its test records. Raw results are written after every run, and runs that are there
are not repeated unless one of the settings has changed, so a stopped benchmark goes on. Prints the table of
the README: per store and count the mean Spearman correlation of the family's own settings, and by how much
that of the best is larger, with its standard error over the seeds; last the mean gain over all counts.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import yaml
from families import CONFIGS
from label_efficiency import Run, plan, run_once
from measured import markdown_table

from qsd.cli.console import bar, console
from qsd.configs import write_json
from qsd.paths import find


def row(runs: list[Run], labels: list[int]) -> list[str]:
    """Cells of one store: Spearman of the default and the gain of the best at each count; mean gain."""
    by_seed = [
        [[run["default"], run["best"]] for run in sorted(runs, key=_seed) if run["labels"] == count]
        for count in labels
    ]
    values = np.array(by_seed)  # [counts, seeds, 2]
    gains = values[..., 1] - values[..., 0]
    cells = [f"{mean:.4f} {_gain(gain)}" for mean, gain in zip(values[..., 0].mean(1), gains, strict=True)]
    return [*cells, _gain(gains.mean(axis=0))]


def _seed(run: Run) -> int:
    return int(run["seed"])


def _gain(gain: np.ndarray) -> str:
    """Mean over the seeds [S] and its standard error."""
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.nan
    return f"{gain.mean():+.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", default=list(CONFIGS), help="by default all that ship")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/best.json"))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    old = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": [], "settings": {}}
    settings = dict(old["settings"])
    wanted = []
    for store in arguments.stores:
        name = CONFIGS[store]
        settings[store] = {
            "default": yaml.safe_load(find(name).read_text()),
            "best": yaml.safe_load(find(name.replace(".yaml", "_best.yaml")).read_text()),
        }
        path = find(f"datasets/{store}.h5")
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
            for which, config in settings[run["store"]].items():
                report = run_once(config, path, run["labels"], run["seed"])
                run[which] = report["ranker"]["spearman"]
            runs.append(run)
            write_json(arguments.out, {"settings": settings, "runs": runs})
    heading = ["test Spearman of default, gain of best", *map(str, arguments.labels), "all", "mean gain"]
    rows = [heading]
    for store in arguments.stores:
        some = [run for run in runs if run["store"] == store]
        most = max(run["labels"] for run in some)
        rows.append([f"`{store}`", *row(some, [*arguments.labels, most])])
    console.print(markdown_table(rows), soft_wrap=True)


if __name__ == "__main__":
    main()
