"""The bar of activations: searched pairs of options beside uniform ones and beside weights searched alone.

    python benchmarks/activations.py [--on digits-pixart-alpha ...] [--labels 330] [--probe-images 64]

For every miniature: a bank with activation options 16, 8, 6, 4 and 8h, probed and labeled (records that are
there are kept), a ranker, and configs measured from noise seeds that nothing was searched on: full precision;
uniform W4A8, W4A6 and W3A8; weights searched alone with uniform A8 and A6; weights and activations searched
together at W3.5A6 and W4A8 (mean bits). Bit-operations are of the weight layers. Every cell is measured once;
run again, what is missing is added. Activations are simulated.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.api import build_bank, label, probe, search
from qsd.bank import FULL_PRECISION, Bank
from qsd.cli import main as qsd
from qsd.configs.activations import uniform_activations
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels import Measurer, verify
from qsd.ranker.checkpoint import load_ranker
from qsd.ranker.joint import pairs
from qsd.ranker.joint_search import joint_costs, search_with_activations
from qsd.support.documents import write_json
from qsd.zoo.registry import MINIATURES, labeling_settings

ACTIVATIONS = ["16", "8", "6", "4", "8h"]
UNIFORM = {"W4A8": ("uaq-4", "8"), "W4A6": ("uaq-4", "6"), "W3A8": ("uaq-3", "8")}
OPTIONS = [f"{method}-{bits}" for method in ("uaq", "kmeans_c", "kmeans_a") for bits in (3, 4)]


def configs_of(bank: Bank, ranker: Any) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """By name, what is measured: config and activations."""
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "full precision": (np.full(len(bank.layers), FULL_PRECISION, np.int8), None)
    }

    def everywhere(bits: str) -> np.ndarray:
        return uniform_activations(bank.activation_options, bank.macs, bits)

    for name, (weights, bits) in UNIFORM.items():
        found[f"uniform {name}"] = bank.uniform_config(weights), everywhere(bits)
    for weight_bits, bits in ((3.5, "6"), (4.0, "8")):
        alone = search(ranker, bank, max_bits=weight_bits).best()
        found[f"weights searched, W{weight_bits:g}A{bits}"] = alone, everywhere(bits)
        both = search_with_activations(ranker, bank, max_bits=weight_bits, max_act_bits=float(bits))
        found[f"searched together, W{weight_bits:g}A{bits}"] = both.config, both.activations
    return found


def run(name: str, arguments: argparse.Namespace, cells: dict[str, Any], save: Any) -> None:
    """Fills the cells of one miniature."""
    pipe, settings = load_pipeline(f"checkpoints/{name}"), labeling_settings(name)
    folder: Path = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "bank.safetensors").exists():
        build_bank(pipe, OPTIONS, activations=ACTIVATIONS).save(folder / "bank.safetensors")
    bank, store = Bank.load(folder / "bank.safetensors"), folder / "store.h5"
    probe(pipe, bank, store, evaluator=settings, num_images=arguments.probe_images)
    label(pipe, bank, store, num_configs=arguments.labels, evaluator=settings)
    if not (folder / "ranker").exists():
        words = ["fit", "--config", "ranker.yaml", "--data.stores", f"[{store}]"]
        words += ["--out", str(folder / "ranker"), "--trainer.default_root_dir", str(folder / "logs")]
        assert qsd(words) == 0
    ranker = load_ranker(folder / "ranker")
    cells["ranker"] = ranker.metrics
    measurer, count = Measurer(pipe, bank, settings), len(bank.activation_options)
    costs = joint_costs(bank)
    for cell, (config, activations) in configs_of(bank, ranker).items():
        if cell in cells:
            continue
        (row,) = verify(
            config[None],
            arguments.seeds,
            measurer.run,
            num_images=settings.num_images,
            activations=[activations],
        )
        if activations is not None:
            total = costs.of(pairs(config, activations, count)[None])[:, 0]
            row |= dict(zip(costs.names, total.tolist(), strict=True))
        cells[cell] = row
        save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--on", nargs="+", default=[name for name in MINIATURES if "classifier" not in name])
    parser.add_argument(
        "--labels", type=int, default=330, help="with 20 %% for testing, about 250 to learn from"
    )
    parser.add_argument("--probe-images", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path("runs/activations"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/activations.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.on:
        cells = results.setdefault(name, {})
        run(name, arguments, cells, lambda: write_json(arguments.out, results, hashed=False))
        for cell, row in cells.items():
            if cell != "ranker":
                print(f"{name} {cell:34s} FID {row['fid']:.3f}  latent MSE {row['latent_mse']:.4f}")


if __name__ == "__main__":
    main()
