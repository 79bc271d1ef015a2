"""What fine-tuning at fixed size is worth: FID and latent MSE of exports before and after.

    python benchmarks/finetune.py [--on digits-pixart-alpha ...] [--images 1000] [--seeds 1 2 3]
    python benchmarks/finetune.py --images 200 --seeds 1 --train-images 64 --epochs 6   # minutes

For 2.5, 3.0 and 3.5 average bits, where the miniature's options go as low, the config of the default option
table with the least sum of squared errors of the weights is exported, fine-tuned (by default with the
defaults of `qsd finetune`) and measured from noise that nothing was drawn from before. Cells that are in the
results already are not computed again; a training that was stopped goes on.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.api import build_bank
from qsd.bank import Bank
from qsd.bank.sizes import smallest_bytes
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import Evaluator
from qsd.export import export, load_export
from qsd.finetune import FinetuneSettings, finetune
from qsd.labels.verifying import summarize
from qsd.search.knapsack import solve_knapsack
from qsd.support.documents import write_json
from qsd.zoo.registry import labeling_settings

BITS = (2.5, 3.0, 3.5)


class Bench:
    """One miniature, its bank, and an evaluator that has seen full precision."""

    def __init__(
        self, name: str, images: int, seeds: list[int], work: Path, training: FinetuneSettings
    ) -> None:
        self.pipe: Any = load_pipeline(f"checkpoints/{name}")
        self.denoiser = denoiser_of(self.pipe)
        file = work / name / "bank.safetensors"
        if not file.exists():
            build_bank(self.pipe).save(file)
        self.bank, self.training = Bank.load(file), training
        self.settings = dataclasses.replace(labeling_settings(name), num_images=images)
        self.seeds, self.folder = seeds, work / name
        self._evaluator: Evaluator | None = None

    def budget(self, bits: float) -> int:
        """Bytes of so many average bits."""
        return int(bits * self.bank.num_weights.sum() / 8)

    def exported(self, bits: float) -> Path:
        """The folder of an export of at most so many average bits."""
        folder = self.folder / f"{bits}"
        if not folder.exists():
            budget = self.budget(bits)
            error = np.nan_to_num(np.square(self.bank.relative_errors), nan=1e9)
            config = solve_knapsack(-error * self.bank.num_weights[:, None], self.bank.num_bytes, budget)
            export(self.pipe, self.bank, config, folder, whole_pipeline=False)
        return folder

    def tuned(self, bits: float) -> tuple[Path, dict[str, float]]:
        """The folder of the same export after training, and what the training says of itself."""
        start = time.perf_counter()
        folder = self.folder / f"{bits}-tuned"
        if not folder.exists():
            result = finetune(
                self.exported(bits),
                self.pipe,
                folder,
                evaluation=self.settings,
                settings=self.training,
                progress=lambda done, total, message: print(
                    f"  {bits}: {done}/{total} {message}", flush=True
                ),
            )
            note = {"loss_before": result.loss_before, "loss_after": result.loss_after}
            note |= dataclasses.asdict(self.training)
            write_json(folder.with_suffix(".json"), note | {"seconds": time.perf_counter() - start})
        return folder, json.loads(folder.with_suffix(".json").read_text())

    def measure(self, folder: Path | None) -> dict[str, Any]:
        """Labels over the seeds, of an export or of full precision."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.pipe, self.settings)
            for seed in self.seeds:
                self._evaluator.full_precision(seed)
        if folder is None:
            found = [self._evaluator.full_precision(seed).labels for seed in self.seeds]
            return summarize(found, self.seeds, self.settings.num_images)
        full = self.denoiser
        name = "transformer" if getattr(self.pipe, "transformer", None) is full else "unet"
        setattr(self.pipe, name, load_export(folder))
        try:
            found = [self._evaluator.measure(seed).labels for seed in self.seeds]
        finally:
            setattr(self.pipe, name, full)
        return summarize(found, self.seeds, self.settings.num_images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--on", nargs="+", default=["digits-pixart-alpha"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--train-images", type=int, default=FinetuneSettings.images)
    parser.add_argument("--epochs", type=int, default=FinetuneSettings.epochs)
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/finetune.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.on:
        cells = results.setdefault(name, {})
        training = FinetuneSettings(
            images=arguments.train_images,
            validation_images=max(32, arguments.train_images // 4),
            epochs=arguments.epochs,
        )
        bench = Bench(name, arguments.images, arguments.seeds, arguments.work, training)
        if "full precision" not in cells:
            cells["full precision"] = bench.measure(None)
            write_json(arguments.out, results, hashed=False)
        for bits in BITS:
            if bench.budget(bits) < smallest_bytes(bench.bank.num_bytes):
                continue
            if f"{bits} before" not in cells:
                cells[f"{bits} before"] = bench.measure(bench.exported(bits))
                write_json(arguments.out, results, hashed=False)
            if f"{bits} after" not in cells:
                folder, note = bench.tuned(bits)
                cells[f"{bits} after"] = bench.measure(folder) | note
                write_json(arguments.out, results, hashed=False)
        for row, labels in cells.items():
            print(f"{name} {row:16s} FID {labels['fid']:.3f}  latent MSE {labels['latent_mse']:.4f}")


if __name__ == "__main__":
    main()
