"""A table that grows: are configs of options that no label has seen ranked by what these options do alone?

    python benchmarks/growing.py [--miniatures digits-dit digits-pixart-alpha] [--labels 120] [--fresh 60]
        [--more 40] [--images 200] [--probe-images 16] [--out runs/growing]

For each miniature: random configs of six options are labeled and the six are probed; then the bank grows by
the other options, which are probed alone. Fresh random configs of the grown table are measured and compared
with what the ranker (its closed form) predicts: without a label of the new table, after some, and, for
comparison, by the length of the summed probed change. Everything goes on where it stopped when it is run
again. Prints Spearman's correlation with the target and writes `OUT/growing.json`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from qsd import api
from qsd.bank import Bank
from qsd.bank.growing import with_options
from qsd.configs.sampling import sample_configs
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels import Job, Measurer
from qsd.quantizers import DEFAULT_OPTIONS, parse_options
from qsd.ranker.baselines import probed_length
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.posteriors import TARGET, fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.store import Store
from qsd.zoo.registry import labeling_settings

OLD = ["uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4"]
TARGET_TEXT = "-log(fid) + 0.2*psnr"
_FRESH_SEED = 77  # of configs that no store draws


def study(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One miniature."""
    folder = given.out / name
    folder.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline(f"checkpoints/{name}")
    settings = labeling_settings(name, given.images)
    file, path = folder / "bank.safetensors", folder / "store.h5"
    shared = {"evaluator": settings, "progress": _say(name)}
    small = api.build_bank(pipe, OLD)
    if not (path.exists() and len(Store.open(path).header.options) > len(OLD)):
        api.label(pipe, small, path, num_configs=given.labels, **shared)
        api.probe(pipe, small, path, num_images=given.probe_images, **shared)
    bank = with_options(small, denoiser_of(pipe), parse_options(given.new or map(str, DEFAULT_OPTIONS)))
    bank.save(file)
    api.probe(pipe, bank, path, num_images=given.probe_images, **shared)
    fresh = sample_configs(bank.options, len(bank.layers), given.fresh, _FRESH_SEED, available=bank.available)
    truth = _measured(folder / "fresh.json", pipe, bank, settings, fresh)
    few = Store.open(path)
    first = few.records.index < given.labels
    before = Store(path, few.header, few.records.select(np.flatnonzero(first)))
    rows = {"0 labels of the new table": _spearman(before, fresh, truth)}
    api.label(pipe, bank, path, num_configs=given.labels + given.more, **shared)
    rows[f"{given.more} labels of the new table"] = _spearman(Store.open(path), fresh, truth)
    responses = few.header.responses
    assert responses is not None
    rows["length of the probed change"] = float(spearmanr(probed_length(responses, fresh), truth)[0])
    return {"labels": given.labels, "images": given.images, "probe_images": given.probe_images, **rows}


def _measured(file: Path, pipe: Any, bank: Bank, settings: Any, configs: np.ndarray) -> np.ndarray:
    """The target of every config; what the file holds is not measured again."""
    rows: list[dict[str, float]] = json.loads(file.read_text()) if file.exists() else []
    if len(rows) < len(configs):
        measurer = Measurer(pipe, bank, settings)
        jobs = [Job(place, configs[place], settings.noise_seed) for place in range(len(rows), len(configs))]
        for _, labels, _ in measurer.run(jobs):
            rows.append(labels)
            file.write_text(json.dumps(rows))
    target = Target(TARGET_TEXT)
    return np.array(
        [float(target({name: np.array(row[name]) for name in target.names})) for row in rows[: len(configs)]]
    )


def _spearman(store: Store, configs: np.ndarray, truth: np.ndarray) -> float:
    """Of the closed form fitted to a store, whose table is that of the configs."""
    data = prepare(store, Target(TARGET_TEXT), folds=4)
    assert data.header.options == store.header.options, "all options are probed"
    predicted = fit_posteriors(Ensemble(), data)[TARGET].posterior(configs).mean
    return float(spearmanr(predicted, truth)[0])


def _say(name: str) -> Any:
    def say(done: int, total: int, message: str) -> None:
        if done % 20 == 0 or done == total:
            print(f"{name}: {done}/{total} {message}", file=sys.stderr, flush=True)

    return say


def main() -> None:
    """Runs the study, or goes on with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--miniatures", nargs="+", default=["digits-dit", "digits-pixart-alpha"])
    parser.add_argument("--new", nargs="+", help="options to grow by; those of the default table if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/growing"))
    for option, default in (("labels", 120), ("fresh", 60), ("more", 40), ("images", 200)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--probe-images", type=int, default=16)
    given = parser.parse_args()
    found = {name: study(name, given) for name in given.miniatures}
    (given.out / "growing.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, rows in found.items():
        for key, value in rows.items():
            if isinstance(value, float):
                print(f"{name:22s} {key:32s} {value:.3f}")


if __name__ == "__main__":
    main()
