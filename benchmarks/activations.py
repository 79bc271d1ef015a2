"""The bar of activations: searched pairs of options beside uniform ones and beside weights searched alone.

    python benchmarks/activations.py [--on digits-pixart-alpha ...] [--labels 330] [--probe-images 64]
    python benchmarks/activations.py --on digits-pixart-alpha --label-images 100 --labels 150 \
        --probe-images 8 --images 200 --seeds 1    # less than half an hour of one core

For every miniature: a bank of the default option table with activation options 16, 8, 6 and 4, probed and
labeled (records that are there are kept), a ranker, and configs measured from noise seeds that nothing was
searched on: full precision; uniform W4A8, W4A6 and W3A8; weights searched alone with uniform A8 and A6;
weights and activations searched together at W3.5A6 and W4A8 (mean bits), and the latter by sampling step
where `qsd probe --steps-groups` says what steps bear. W4 and W3 are the options of the table that have 4 and
3 bits without groups. Bit-operations are of the weight layers. Every cell is measured once; stopped, the same
command goes on where it was. Activations are simulated.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.api import build_bank, label, probe, search
from qsd.bank import FULL_PRECISION, Bank
from qsd.cli import main as qsd
from qsd.configs.activations import uniform_activations
from qsd.configs.schedule import Schedule
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels import Measurer, verify
from qsd.labels.steps import StepProbe, probe_steps
from qsd.ranker.checkpoint import load_ranker
from qsd.ranker.joint import pairs
from qsd.ranker.joint_search import joint_costs, search_with_activations
from qsd.ranker.schedules import Budgets, by_damage
from qsd.support.documents import write_json
from qsd.zoo.registry import MINIATURES, labeling_settings

ACTIVATIONS = ["16", "8", "6", "4"]
UNIFORM = {"W4A8": ("lloyd-4:f8", "8"), "W4A6": ("lloyd-4:f8", "6"), "W3A8": ("lloyd-3:f8", "8")}
GROUPS = 4
Activations = np.ndarray | Schedule | None


def configs_of(bank: Bank, ranker: Any, steps: StepProbe) -> dict[str, tuple[np.ndarray, Activations]]:
    """By name, what is measured: config and activations."""
    found: dict[str, tuple[np.ndarray, Activations]] = {
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
        shares, mean = steps.shares(bank.activation_options), Budgets(max_act_bits=float(bits))
        by_step = by_damage(ranker, bank, both, steps.ranges, shares, mean)
        found[f"the same by step, W{weight_bits:g}A{bits}"] = both.config, by_step.schedule
    return found


def run(name: str, arguments: argparse.Namespace, cells: dict[str, Any], save: Any) -> None:
    """Fills the cells of one miniature."""
    pipe, settings = load_pipeline(f"checkpoints/{name}"), labeling_settings(name)
    few = dataclasses.replace(
        settings,
        num_images=arguments.label_images or settings.num_images,
        kid_subset_size=min(settings.kid_subset_size, arguments.label_images or settings.num_images),
    )
    settings = dataclasses.replace(settings, num_images=arguments.images)
    folder: Path = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "bank.safetensors").exists():
        build_bank(pipe, activations=ACTIVATIONS).save(folder / "bank.safetensors")
    bank, store = Bank.load(folder / "bank.safetensors"), folder / "store.h5"
    probe(pipe, bank, store, evaluator=few, num_images=arguments.probe_images)
    label(pipe, bank, store, num_configs=arguments.labels, evaluator=few)
    if not (folder / "steps.json").exists():
        drawn = dataclasses.replace(few, num_images=arguments.probe_images)
        write_json(folder / "steps.json", probe_steps(pipe, bank, drawn, GROUPS).to_json())
    steps = StepProbe.load(folder / "steps.json", bank.denoiser)
    if not (folder / "ranker").exists():
        words = ["fit", "--config", "ranker.yaml", "--data.stores", f"[{store}]"]
        words += ["--out", str(folder / "ranker"), "--trainer.default_root_dir", str(folder / "logs")]
        assert qsd(words) == 0
    ranker = load_ranker(folder / "ranker")
    cells["ranker"] = ranker.metrics
    measurer, count = Measurer(pipe, bank, settings), len(bank.activation_options)
    costs = joint_costs(bank)
    for cell, (config, activations) in configs_of(bank, ranker, steps).items():
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
            by_step = isinstance(activations, Schedule)
            vectors = activations.activations if by_step else activations[None]
            shares = activations.shares() if by_step else np.ones(1)
            genes = np.stack([pairs(config, vector, count) for vector in vectors])
            row |= dict(zip(costs.names, (costs.of(genes) @ shares).tolist(), strict=True))
        cells[cell] = row
        save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--on", nargs="+", default=[name for name in MINIATURES if "classifier" not in name])
    parser.add_argument(
        "--labels", type=int, default=330, help="with 20 %% for testing, about 250 to learn from"
    )
    parser.add_argument("--label-images", type=int, help="per label; by default those of the miniature")
    parser.add_argument("--probe-images", type=int, default=64)
    parser.add_argument("--images", type=int, default=1000, help="per measurement")
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
