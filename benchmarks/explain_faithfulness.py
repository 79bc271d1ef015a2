"""Which explanation says what a single layer really costs: its order of flips against measured ones.

    python benchmarks/explain_faithfulness.py [--families digits-dit ...] [--layers 12] [--images 200]

Per family: around the uniform config of middling size, some layers (drawn at random) are flipped alone to
their smallest and to their largest option, and the flipped configs are drawn and measured from the same noise
as the uniform one. Each explanation says by how much a flip harms; printed is Kendall's tau between that and
the measured change of the latent MSE and of FID, with 90 % bootstrap intervals over layers.

- flips around: the predicted flip around the uniform config, by the probed changes alone and by a ranker
  (the process fitted to the store with --target);
- flips at full precision: the squared length of the option's probed change alone;
- Shapley: the layer's Shapley value in the flipped config minus in the uniform one (probed changes);
- hop 0 and block: hop scores of the option, and of the module's combination with the flip, by a graph network
  of Qua²SeDiMo's kind. Its folder is looked for under --paper as `ranker-FAMILY-paper`, and trained for
  --epochs epochs where it is missing;
- ridge: the linear regression on the labels; errors: the relative error of the weights.

Every flip is written to --out as soon as it is measured, and a run goes on where an earlier one stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from measured import markdown_table
from scipy.stats import kendalltau
from search_quality import PAPER, Family

from qsd.cli import main as qsd_main
from qsd.cli.console import bar
from qsd.explain import explain
from qsd.explain.explanation import default_config
from qsd.explain.score import summed
from qsd.labels import Job
from qsd.ranker.baselines import Ridge, one_hot
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.ranker.target import Target
from qsd.support.documents import write_json
from qsd.support.errors import QsdError

SEED = 100
Flip = tuple[int, int]


def flips_of(family: Family, config: np.ndarray, layers: int) -> list[Flip]:
    """(layer, option) pairs: of layers drawn at random, the smallest and the largest option."""
    sizes = family.bank.num_bytes
    drawn = np.random.default_rng(0).permutation(len(sizes))[:layers]
    found = []
    for layer in sorted(drawn.tolist()):
        able = np.flatnonzero(sizes[layer] >= 0)
        for option in (able[sizes[layer, able].argmin()], able[sizes[layer, able].argmax()]):
            if option != config[layer]:
                found.append((layer, int(option)))
    return found


def paper_ranker(family: Family, folder: Path, epochs: int) -> Ranker | None:
    """The family's graph network with hop losses, trained where it is missing; None without a YAML."""
    kind = next((some for some in PAPER if some in family.name), None)
    if kind is None:
        return None
    path = folder / f"ranker-{kind}-paper"
    if not path.is_dir():
        words = ["fit", "--config", f"{kind.replace('-', '_')}_paper.yaml", "--out", str(path)]
        words += ["--data.stores", f"[{family.store.path}]", "--trainer.max_epochs", str(epochs)]
        words += ["--trainer.logger", "false", "--trainer.default_root_dir", str(folder), "--data.folds", "3"]
        if qsd_main(words):
            return None
    return load_ranker(path)


def predicted(family: Family, config: np.ndarray, flips: list[Flip], paper: Ranker | None) -> dict[str, Any]:
    """By explanation, the harm of each flip in units of its own, float64 [flips]."""
    layers, options = np.array(flips).T
    own = config.astype(np.int64)[layers]
    alone = explain(family.store, config)
    ranked = explain(family.store, config, ranker=family.ranker(family.target))

    def difference(table: np.ndarray) -> np.ndarray:
        return table[layers, options] - table[layers, own]

    found = {
        "flips around, probed": difference(alone.cost_around),
        "flips around, ranker": difference(ranked.cost_around),
        "errors": difference(family.bank.relative_errors),
        "ridge": -difference(_ridge(family)),
    }
    if alone.score.change is not None:
        change, total = alone.score.change, summed(alone.score.change, config[None])[0]
        moved = change[layers, options] - change[layers, own]
        parts = (change[layers, options] * (total + moved)).sum(1) - (change[layers, own] * total).sum(1)
        found |= {"flips at full precision": difference(alone.cost_alone), "Shapley": parts}
    if paper is not None:
        hops = explain(family.store, config, ranker=paper)
        if hops.hop_scores is not None:
            found["hop 0"] = -difference(hops.hop_scores)
        if hops.modules:
            found["block"] = np.array([_module_harm(hops.modules, config, flip) for flip in flips])
    return found


def _module_harm(modules: Any, config: np.ndarray, flip: Flip) -> float:
    module = next(one for one in modules if flip[0] in one.layers)
    flipped = config.copy()
    flipped[flip[0]] = flip[1]
    scores = []
    for one in (config, flipped):
        found = np.flatnonzero((module.options == one[module.layers]).all(axis=1))
        scores.append(float(module.score[found[0]]) if len(found) else float("nan"))
    return scores[0] - scores[1]


def _ridge(family: Family) -> np.ndarray:
    store = family.store
    target = Target(family.target).evaluate(store)
    rows = np.flatnonzero(target.valid & (store.records.split != 2))
    options = len(family.bank.options)
    return Ridge.fit(one_hot(store.records.config[rows], options), target.values[rows]).weights.reshape(
        -1, options
    )


def tau(harm: np.ndarray, measured: np.ndarray, layers: np.ndarray) -> str:
    """Kendall's tau with its 90 % bootstrap interval over layers."""
    known = np.isfinite(harm)
    if known.sum() < 4:
        return "-"
    harm, measured, layers = harm[known], measured[known], layers[known]
    rng, names = np.random.default_rng(0), np.unique(layers)
    again = []
    for _ in range(500):
        rows = np.concatenate([np.flatnonzero(layers == one) for one in rng.choice(names, len(names))])
        again.append(kendalltau(harm[rows], measured[rows]).statistic)
    low, high = np.nanquantile(again, [0.05, 0.95])
    return f"{kendalltau(harm, measured).statistic:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=["digits-pixart-alpha", "digits-dit"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=60, help="of a paper's ranker that is not there yet")
    parser.add_argument("--target", default="-log(fid) + 0.2*psnr")
    parser.add_argument("--stores", type=Path, help="folder of FAMILY.h5; the shipped ones by default")
    parser.add_argument("--paper", type=Path, default=Path("runs"))
    parser.add_argument("--no-paper", action="store_true", help="leave out hop scores")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/explain_faithfulness.json"))
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = (
        json.loads(arguments.out.read_text())["families"] if arguments.out.exists() else {}
    )
    for name in arguments.families:
        family = Family(
            *(name, arguments.target, arguments.paper, arguments.images, arguments.out.parent / "rankers"),
            stores=arguments.stores,
        )
        config, option = default_config(family.store)
        flips = flips_of(family, config, arguments.layers)
        cells = results.setdefault(f"{name} {family.identity}", {})
        with bar(f"{name}, around {option}") as progress:
            for done, flip in enumerate([None, *flips]):
                key = f"{option}|{flip}|{arguments.images}"
                if key not in cells:
                    flipped = config.copy()
                    if flip is not None:
                        flipped[flip[0]] = flip[1]
                    _, cells[key], _ = next(iter(family.measurer.run([Job(0, flipped, SEED)])))
                    write_json(arguments.out, {"families": results}, hashed=False)
                progress(done + 1, len(flips) + 1, "flips")
        paper = None
        if not arguments.no_paper:
            try:
                paper = paper_ranker(family, arguments.paper, arguments.epochs)
            except QsdError as error:
                print(error)
        base = cells[f"{option}|None|{arguments.images}"]
        measured = {
            label: np.array([cells[f"{option}|{flip}|{arguments.images}"][label] for flip in flips])
            - base[label]
            for label in ("latent_mse", "fid")
        }
        layers = np.array(flips)[:, 0]
        rows = [["explanation", "latent MSE", "FID"]]
        for kind, harm in predicted(family, config, flips, paper).items():
            rows.append([kind, *(tau(harm, change, layers) for change in measured.values())])
        print(f"\n{name}, {len(flips)} flips around {option}, {arguments.images} images")
        print(f"\n{markdown_table(rows)}\n")


if __name__ == "__main__":
    main()
