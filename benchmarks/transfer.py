"""How well a denoiser is ranked that nothing was learned from: leave one family out.

    python benchmarks/transfer.py [STORE ...] [--config universal.yaml] [--seeds 5] [--quick]
        [--out benchmarks/results]

Stores are by default all in `datasets` that are probed. A training has as many networks as stores, and
network k learns from all but store k, so one training leaves every family out once; it is tested on all test
configs of the family's first noise seed. Variants: the graph layers of the configuration, and the same
network over the same features without edges. Beside them: trees on the same features (histogram gradient
boosting of scikit-learn), sum of errors, average bits, and what only probes tell: the true lengths of all
changes without their directions. Then the curves: none, a quarter and all of the layers probed, and 0, 10, 25
or 50 labels, by images drawn. Raw results go to `transfer.json` after every run, and
runs that are in it are not repeated; `transfer.md` has the tables, `transfer.png` the curves. --quick: 2
seeds, short trainings, no curves.
"""

import argparse
import dataclasses
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import matplotlib
import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from stores import shipped_stores

from qsd.cli.console import bar, console
from qsd.ranker.baselines import average_bits
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.features import NODE_ROLES
from qsd.ranker.metrics import spearman
from qsd.ranker.posteriors import TARGET, fit_posteriors
from qsd.ranker.universal.data import ProbedStore, UniversalDataModule
from qsd.ranker.universal.finishing import without
from qsd.ranker.universal.module import UniversalModule, score
from qsd.ranker.universal.predictor import UniversalPredictor
from qsd.ranker.universal.universal import Universal
from qsd.store import Responses, Store
from qsd.support.documents import write_json
from qsd.support.files import atomic
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

matplotlib.use("Agg")
from matplotlib import pyplot

Run = dict[str, Any]
FEATURES = 1  # the space of changes that rules and trees use
SHARES, LABELS = (0.0, 0.25, 1.0), (0, 10, 25, 50)
TREES = {"max_iter": 150, "learning_rate": 0.06, "max_leaf_nodes": 8, "min_samples_leaf": 30}


def train(config: dict[str, Any], stores: list[str], seed: int, network: dict[str, Any]) -> Any:
    """Networks and stores of one training."""
    lightning.seed_everything(seed, verbose=False)
    settings = config["model"] | {"network": config["model"]["network"] | network}
    module = UniversalModule(**settings)
    data = UniversalDataModule(**config["data"] | {"stores": stores, "seed": seed})
    trainer = lightning.Trainer(
        max_epochs=config["trainer"]["max_epochs"],
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return module, data.stores


def tests(store: ProbedStore) -> tuple[np.ndarray, np.ndarray]:
    """Test configs and their targets."""
    rows = store.data.test_rows().numpy()
    return store.data.configs[rows].numpy(), store.data.targets[rows, 0].double().numpy()


def rules(store: ProbedStore) -> dict[str, float]:
    """Spearman of what needs nothing but the bank, and of the lengths of the probed changes."""
    configs, truth = tests(store)
    layers = np.arange(configs.shape[1])
    errors = store.data.header.relative_error[layers, configs]
    energy = np.exp(store.log_energy[:, FEATURES].double().numpy()).reshape(store.shape)[layers, configs]
    return {
        "sum of errors": spearman(truth, -errors.sum(axis=1)),
        "average bits": spearman(truth, average_bits(store.data.header, configs)),
        "probed: true lengths": spearman(truth, -np.sqrt(energy).sum(axis=1)),
        "probed: true squared lengths": spearman(truth, -energy.sum(axis=1)),
    }


def trees(stores: list[ProbedStore], place: int, seed: int) -> dict[str, float]:
    """Boosted trees on the same features, for the log gain in the space of features."""
    tables, gains = [], []
    for store in stores:
        graph = store.graph
        role = np.eye(len(NODE_ROLES))[graph.role[graph.node].numpy()]
        layers = np.concatenate([graph.static[graph.node].numpy(), role], axis=1)
        tables.append(np.concatenate([layers[graph.layer.numpy()], graph.option.numpy()], axis=1))
        gain = (store.log_energy[:, FEATURES] - 2 * graph.log_error).numpy()
        gains.append(gain - np.nanmean(gain))
    others = [other for other in range(len(stores)) if other != place]
    rows, wanted = (np.concatenate([part[other] for other in others]) for part in (tables, gains))
    known = np.isfinite(wanted)
    model = HistGradientBoostingRegressor(**TREES, max_features=0.3, random_state=seed)
    gain = model.fit(rows[known], wanted[known]).predict(tables[place])
    store = stores[place]
    energy = np.exp(gain + 2 * store.graph.log_error.numpy()).reshape(store.shape)
    configs, truth = tests(store)
    chosen = energy[np.arange(configs.shape[1]), configs]
    return {
        "trees, squared lengths": spearman(truth, -chosen.sum(axis=1)),
        "trees, lengths": spearman(truth, -np.sqrt(chosen).sum(axis=1)),
    }


def curves(ranker: Universal, store: ProbedStore, seed: int) -> list[dict[str, Any]]:
    """Spearman by share of probed layers and number of labels."""
    header = store.data.header
    layers = len(header.layers)
    responses = header.responses
    assert responses is not None
    expected = ranker.expected(dataclasses.replace(header, responses=None))
    configs, truth = tests(store)
    known = np.random.default_rng(seed).permutation(store.data.known_rows().numpy())
    images = int(header.conditions.get("num_images", 0))
    rows = []
    for share in SHARES:
        measured = None
        count = int(np.ceil(share * layers))
        if count:
            chosen = expected.least_predictable(count, np.zeros(layers, dtype=bool))
            measured = only(responses, chosen)
        completed = expected.given(measured)
        drawn = count * int(header.available.sum() / layers) * responses.num_images
        for labels in LABELS:
            if labels:
                fold = np.full(len(store.data.fold), -1)
                fold[known[:labels]] = 0
                part = dataclasses.replace(
                    store.data,
                    header=dataclasses.replace(header, responses=completed.responses),
                    fold=type(store.data.fold)(fold.tolist()),
                    predicted_labels=(),
                )
                found = fit_posteriors(Ensemble(), part)[TARGET].posterior(configs).mean
            else:
                found = UniversalPredictor.of(completed).scores(configs)[0]
            rows.append(
                {
                    "probed": share,
                    "labels": labels,
                    "images": drawn + labels * images,
                    "spearman": spearman(truth, found),
                }
            )
    return rows


def only(responses: Responses, layers: list[int]) -> Responses:
    """Responses of some layers."""
    spaces = {}
    for name, values in responses.spaces.items():
        spaces[name] = np.full_like(values, np.nan)
        spaces[name][layers] = values[layers]
    return dataclasses.replace(responses, spaces=spaces)


def run_once(config: dict[str, Any], stores: list[str], seed: int, edges: bool, with_curves: bool) -> Run:
    """One training and all families."""
    module, probed = train(config, stores, seed, {} if edges else {"conv": "none"})
    run: Run = {"seed": seed, "edges": edges, "families": {}}
    for place, store in enumerate(probed):
        configs, truth = tests(store)
        rows = store.data.test_rows()
        family: dict[str, Any] = {
            "spearman": spearman(truth, score(module.members[place], store, store.data.configs[rows]).numpy())
        }
        ranker = without(list(module.members), probed, place, config["data"]["target"])
        posterior = UniversalPredictor.of(
            ranker.expected(store.data.header).given(None), ranker.calibration
        ).posterior(configs)
        low, high = posterior.interval(0.9)
        family["coverage_90"] = float(((low <= truth) & (truth <= high)).mean())
        family["std"] = float(posterior.std.mean())
        if edges:
            family["trees"] = trees(probed, place, seed)
        if with_curves:
            family["curves"] = curves(ranker, store, seed)
        run["families"][store.name] = family
    return run


def summary(runs: list[Run], of_rules: dict[str, dict[str, float]]) -> str:
    """Markdown tables of the runs, and of what is ranked without training, by store."""
    with_edges = [run for run in runs if run["edges"]]
    alone = [run for run in runs if not run["edges"]]
    names = list(with_edges[0]["families"])
    rows: dict[str, list[list[float]]] = {
        "universal ranker": [[run["families"][n]["spearman"] for n in names] for run in with_edges],
        "the same without edges": [[run["families"][n]["spearman"] for n in names] for run in alone],
    }
    for rule in with_edges[0]["families"][names[0]]["trees"]:
        rows[rule] = [[run["families"][n]["trees"][rule] for n in names] for run in with_edges]
    for rule in of_rules[names[0]]:
        rows[rule] = [[of_rules[n][rule] for n in names]]
    lines = [
        f"| no probes, no labels ({len(with_edges)} seeds) | "
        + " | ".join(name.removeprefix("digits-") for name in names)
        + " | mean |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for name, values in rows.items():
        if values:
            table = np.array(values)
            deviations = [f" ± {std:.3f}" if len(table) > 1 else "" for std in table.std(0)]
            cells = [f"{mean:.3f}{std}" for mean, std in zip(table.mean(0), deviations, strict=True)]
            lines.append(f"| {name} | {' | '.join(cells)} | **{table.mean():.3f}** |")
    if alone:
        gain = np.mean(rows["universal ranker"], axis=0) - np.mean(rows["the same without edges"], axis=0)
        reach = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
        lines += [
            "",
            f"Edges add {gain.mean():+.3f} (95 % interval over families "
            f"{gain.mean() - reach:+.3f} to {gain.mean() + reach:+.3f}).",
        ]
    covered = [run["families"][n]["coverage_90"] for run in with_edges for n in names]
    lines += ["", f"90 % intervals held {np.mean(covered):.0%} of the test labels.", ""]
    drawn = [run for run in with_edges if "curves" in run["families"][names[0]]]
    if drawn:
        lines += [
            "| probed layers | " + " | ".join(f"{labels} labels" for labels in LABELS) + " |",
            "|---|" + "---:|" * len(LABELS),
        ]
        for share in SHARES:
            cells = []
            for labels in LABELS:
                found = [
                    point["spearman"]
                    for run in drawn
                    for n in names
                    for point in run["families"][n]["curves"]
                    if (point["probed"], point["labels"]) == (share, labels)
                ]
                cells.append(f"{np.mean(found):.3f} (worst {np.min(found):.3f})")
            lines.append(f"| {share:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(runs: list[Run], path: Path) -> None:
    """Spearman over images drawn, a panel per family."""
    drawn = [run for run in runs if "curves" in next(iter(run["families"].values()))]
    if not drawn:
        return
    names = list(drawn[0]["families"])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 3.1 * rows + 0.4), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for share in SHARES:
            points = [
                [
                    (p["images"], p["spearman"])
                    for p in run["families"][name]["curves"]
                    if p["probed"] == share
                ]
                for run in drawn
            ]
            images, values = np.mean(points, axis=0).T
            axis.plot(np.maximum(images, 1), values, marker="o", label=f"{share:.0%} of the layers probed")
        axis.set(title=name, xlabel="images drawn", ylabel="test Spearman", xscale="symlog")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", help="by default all probed ones in datasets")
    parser.add_argument("--config", default="universal.yaml")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    config = read_yaml(find(arguments.config))
    if arguments.quick:
        config["trainer"]["max_epochs"] = 2
    found = [find(store) for store in arguments.stores] or shipped_stores()
    stores = [str(path) for path in found if is_probed(path)]
    raw = arguments.out / "transfer.json"
    settings = {name: config[name] for name in ("data", "model", "trainer")} | {"stores": stores}
    old = json.loads(raw.read_text()) if raw.exists() else {"settings": settings, "runs": []}
    if old["settings"] != settings:
        parser.error(f"{raw}: measured with other settings; give another --out")
    runs: list[Run] = old["runs"]
    done = {(run["seed"], run["edges"]) for run in runs}
    seeds = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
    wanted = [(seed, edges) for seed in range(seeds) for edges in (True, False)]
    missing = [one for one in wanted if one not in done]
    with bar("Transfer") as progress:
        for position, (seed, edges) in enumerate(missing):
            progress(position, len(missing), f"seed {seed}, {'with' if edges else 'without'} edges")
            runs.append(run_once(config, stores, seed, edges, edges and not arguments.quick))
            write_json(raw, {"settings": settings, "runs": runs}, hashed=False)
    data = UniversalDataModule(**config["data"] | {"stores": stores})
    data.setup()
    text = summary(runs, {store.name: rules(store) for store in data.stores})
    with atomic(arguments.out / "transfer.md") as temporary:
        temporary.write_text(text)
    plot(runs, arguments.out / "transfer.png")
    console.print(text)


def is_probed(path: Path) -> bool:
    """Whether all layers of a labeled store are probed."""
    store = Store.open(path)
    responses = store.header.responses
    return responses is not None and not len(responses.missing()) and len(store.records) > 0


if __name__ == "__main__":
    main()
