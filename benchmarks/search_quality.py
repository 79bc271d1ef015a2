"""What each way of choosing a config is worth: measured FID and latent MSE at equal bytes, per family.

    python benchmarks/search_quality.py [--families digits-dit ...] [--bits 3.5] [--seeds 5] [--paper runs]

Per miniature and budget (3.0, 3.25, 3.5 and 4.0 average bits where they are possible, and the bytes of every
uniform config) each method of `qsd search` proposes one config; all are measured on 1,000 images under fresh
noise seeds, the same for all, and so is full precision. Every cell is written as soon as it is measured, and
a run goes on where an earlier one stopped; configs that two methods share are measured once.

- `evolution` is our search over the process that is fitted to the shipped store with --target;
  `evolution, -log(fid)` the same with the target of FID alone;
- `length` reads no label; `random` predicts as many configs as evolution; `uniform` is the best uniform
  config that fits; `orthogonality` takes of beta = 0.3, 1, 3 the config that the ranker likes best, which is
  more than the paper gives it;
- `operation` and `block` need a graph network trained by FAMILY_paper.yaml, whose folder is looked for under
  --paper as `ranker-FAMILY-paper`; without one these cells are missing, and the table says so.

A rival's cell says whether evolution wins (its FID is lower beyond the 95 % interval of the paired
differences over seeds), ties and has the lower latent MSE, ties, or loses. Where a store has no FID, PSNR
takes its place, also as the target.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

import qsd.api as api
from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.bank.sizes import smallest_bytes
from qsd.cli.console import bar
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation.evaluator import headline
from qsd.labels import Job, Measurer
from qsd.ranker.checkpoint import Ranker, load_ranker, save_ranker
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.ranker.tasks import OrthogonalitySettings
from qsd.search import SearchSettings
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.errors import QsdError
from qsd.support.hashing import json_hash
from qsd.support.paths import shipped_root
from qsd.zoo.registry import MINIATURES, labeling_settings

FIRST_SEED = 100
BETAS = (0.3, 1.0, 3.0)
METHODS: dict[str, dict[str, Any]] = {
    "evolution": {},
    "evolution, -log(fid)": {"target": "-log(fid)"},
    "length": {"method": "length"},
    "operation": {"method": "operation"},
    "block": {"method": "block"},
    "orthogonality": {"method": "orthogonality"},
    "knapsack, ridge": {"method": "knapsack", "score": "ridge"},
    "knapsack, energies": {"method": "knapsack", "score": "energies"},
    "knapsack, errors": {"method": "knapsack", "score": "errors"},
    "greedy": {"method": "greedy"},
    "random": {"method": "random"},
    "uniform": {"method": "uniform"},
}
PAPER = ("pixart-sigma", "pixart", "hunyuan", "sd15", "sdxl", "dit")
"""Families whose paper rankers there are YAMLs for, by a part of the miniature's name."""
FULL = "full precision"
Cells = dict[str, dict[str, Any]]


@dataclasses.dataclass
class Family:
    """What the cells of one miniature share."""

    name: str
    target: str
    paper: Path
    images: int
    folder: Path
    stores: Path | None = None
    generations: int = 40

    def __post_init__(self) -> None:
        self.pipe = load_pipeline(shipped_root() / "checkpoints" / self.name)
        self.store = Store.open((self.stores or shipped_root() / "datasets") / f"{self.name}.h5")
        self.bank: Bank = build_bank(denoiser_of(self.pipe), self.store.header.options)
        self.evaluation = labeling_settings(self.name, self.images)
        if all(label.name != "fid" for label in self.store.header.labels):
            self.target = "psnr"
        self.measurer = Measurer(self.pipe, self.bank, self.evaluation)
        self.rankers: dict[str, Ranker] = {}

    @property
    def identity(self) -> str:
        """Of the option table and the labels: results of another store are not gone on with."""
        header, records = self.store.header, self.store.records
        return json_hash([list(map(str, header.options)), len(records), header.provenance.get("command")])[:8]

    def ranker(self, target: str) -> Ranker:
        """The process that is fitted to the store's training and validation records."""
        if target not in self.rankers:
            data = dataclasses.replace(prepare(self.store, Target(target), folds=2), predicted_labels=())
            folder = self.folder / f"{self.name}-{len(self.rankers)}"
            posteriors = [fit_posteriors(Ensemble(), data)]
            settings = NetworkSettings()
            save_ranker(folder, Ensemble(), [data.header], target, posteriors, network=settings)
            self.rankers[target] = load_ranker(folder)
        return self.rankers[target]

    def budgets(self, bits: list[float]) -> dict[str, int]:
        """Bytes by name: average bits that are possible, and the sizes of uniform configs."""
        total = int(self.bank.num_weights.sum())
        smallest = smallest_bytes(self.bank.num_bytes)
        wanted = {f"{value:g} bits": int(value * total // 8) for value in bits}
        budgets = {name: size for name, size in wanted.items() if size >= smallest}
        for option in self.bank.options:
            budgets[str(option)] = int(self.bank.config_bytes(self.bank.uniform_config(option)))
        return budgets

    def propose(self, method: str, max_bytes: int) -> np.ndarray:
        """The config of a method within a budget, int8 [L]."""
        options = dict(METHODS[method])
        ranker = self.ranker(options.pop("target", self.target))
        if method in ("operation", "block"):
            family = next((some for some in PAPER if some in self.name), None)
            if family is None:
                raise QsdError(f"{self.name}: no YAML trains a network with hop losses for it")
            folder = self.paper / f"ranker-{family}-paper"
            if not folder.is_dir():
                raise QsdError(f"{folder}: missing; train it with {family.replace('-', '_')}_paper.yaml")
            ranker = load_ranker(folder)
        alone = method in ("operation", "block", "length", "greedy") or method.startswith("knapsack")
        settings = SearchSettings(generations=self.generations, improve_rounds=self.generations)
        if method == "random":  # as many as evolution predicts
            settings = SearchSettings(additive_samples=200 * self.generations)
        front = api.search(
            *(None if alone and method not in ("operation", "block") else ranker, self.bank),
            max_bytes=max_bytes,
            store=self.store,
            pipe=self.pipe,
            evaluator=self.evaluation,
            orthogonality=OrthogonalitySettings(beta=BETAS[0], sweep=list(BETAS[1:])),
            settings=settings,
            **options,
        )
        return front.configs[-1] if alone else front.best()

    def measure(self, config: np.ndarray, seeds: list[int]) -> dict[str, list[float]]:
        """Labels of a config by seed."""
        rows: dict[str, list[float]] = {}
        for _, labels, _ in self.measurer.run([Job(0, config, seed) for seed in seeds]):
            for name, value in labels.items():
                rows.setdefault(name, []).append(value)
        return rows


def verdict(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> str:
    """How evolution compares with a rival on the same seeds."""
    name = headline(ours)
    gain = np.array(theirs[name]) - np.array(ours[name])
    gain = gain if name == "fid" else -gain
    reach = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
    if abs(gain.mean()) > reach:
        return "win" if gain.mean() > 0 else "LOSS"
    nearer = np.mean(ours["latent_mse"]) < np.mean(theirs["latent_mse"])
    return "tie, nearer" if nearer else "tie"


def table(cells: Cells) -> str:
    """All cells of a family as Markdown, losses as visible as wins."""
    full = [cell for cell in cells.values() if cell["method"] == FULL]
    cells = {key: cell for key, cell in cells.items() if cell["method"] != FULL}
    sizes = {cell["budget"]: cell["max_bytes"] for cell in cells.values()}
    budgets = sorted(sizes, key=sizes.__getitem__)
    methods = [method for method in METHODS if any(cell["method"] == method for cell in cells.values())]
    of = {(cell["budget"], cell["method"]): cell for cell in cells.values()}
    lines = ["| budget | " + " | ".join(methods) + " |", "|---|" + "---:|" * len(methods)]
    for budget in budgets:
        ours = of.get((budget, "evolution"))
        row = []
        for method in methods:
            cell = of.get((budget, method))
            if cell is None:
                row.append("not run")
                continue
            if "missing" in cell:
                row.append("-")
                continue
            labels = cell["labels"]
            text = f"{np.mean(labels['psnr']):.1f} dB"
            if "fid" in labels:
                text = f"{np.mean(labels['fid']):.3f} ({text})"
            if ours is not None and method != "evolution" and "labels" in ours:
                text += f", {verdict(ours['labels'], labels)}"
            row.append(text)
        lines.append(f"| {budget} | " + " | ".join(row) + " |")
    lines += [
        f"\nfull precision: {np.mean(cell['labels']['fid']):.3f}" for cell in full if "fid" in cell["labels"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    labeled = [name for name in MINIATURES if (shipped_root() / "datasets" / f"{name}.h5").is_file()]
    parser.add_argument("--families", nargs="+", default=labeled)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--bits", type=float, nargs="*", default=[3.0, 3.25, 3.5, 4.0])
    parser.add_argument("--no-uniform-sizes", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--target", default="-log(fid) + 0.2*psnr", help="of evolution")
    parser.add_argument("--generations", type=int, default=40, help="of evolution, and its local rounds")
    parser.add_argument("--stores", type=Path, help="folder of FAMILY.h5; the shipped ones by default")
    parser.add_argument("--paper", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_quality.json"))
    arguments = parser.parse_args()
    results: dict[str, Cells] = (
        json.loads(arguments.out.read_text())["families"] if arguments.out.exists() else {}
    )
    seeds = list(range(FIRST_SEED, FIRST_SEED + arguments.seeds))
    for name in arguments.families:
        with bar(name) as progress:
            family = Family(
                *(name, arguments.target, arguments.paper, arguments.images),
                arguments.out.parent / "rankers",
                arguments.stores,
                arguments.generations,
            )
            cells = results.setdefault(f"{name} {family.identity}", {})
            budgets = family.budgets(arguments.bits)
            if arguments.no_uniform_sizes:
                budgets = {key: size for key, size in budgets.items() if key.endswith("bits")}
            size = f"|{arguments.images}|{arguments.seeds}"
            key = FULL + size
            if key not in cells:
                config = np.full(len(family.bank.layers), FULL_PRECISION, dtype=np.int8)
                labels = family.measure(config, seeds)
                cells[key] = {"budget": FULL, "method": FULL, "seeds": seeds, "labels": labels}
            todo = [(budget, method) for budget in budgets for method in arguments.methods]
            for done, (budget, method) in enumerate(todo):
                key = f"{budget}|{method}{size}"
                if key in cells:
                    continue
                alike = {key: cell for key, cell in cells.items() if key.endswith(size)}
                cells[key] = cell_of(family, alike, budget, budgets[budget], method, seeds)
                write_json(arguments.out, {"families": results}, hashed=False)
                progress(done + 1, len(todo), f"{budget}: {method}")
        alike = {key: cell for key, cell in cells.items() if key.endswith(size)}
        print(f"\n{name}\n\n{table(alike)}\n")  # the console would wrap it


def cell_of(
    family: Family, cells: Cells, budget: str, max_bytes: int, method: str, seeds: list[int]
) -> dict[str, Any]:
    """Proposes and measures, unless another method's config is the same."""
    cell: dict[str, Any] = {"budget": budget, "method": method, "max_bytes": max_bytes, "seeds": seeds}
    try:
        config = family.propose(method, max_bytes)
    except QsdError as error:
        return cell | {"missing": str(error)}
    twin = next((one for one in cells.values() if one.get("config") == config.tolist()), None)
    labels = twin["labels"] if twin else family.measure(config, seeds)
    size = int(family.bank.config_bytes(config))
    return cell | {"bytes": size, "config": config.tolist(), "labels": labels}


if __name__ == "__main__":
    main()
