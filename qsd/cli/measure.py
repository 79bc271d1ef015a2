"""``qsd measure``."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jsonargparse.typing import PositiveInt
from rich.table import Table

from qsd.bank import FULL_PRECISION, Bank
from qsd.cli.config_names import read_configs
from qsd.cli.console import bar, console, print_json, run_function
from qsd.cli.measured import measured_table
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Measurer, Pool, verify

_FULL_BYTES = 2  # of a weight at full precision


def measure(
    pipeline: str,
    bank: str,
    configs: list[str],
    evaluation: EvaluationSettings,
    noise_seeds: list[int] = [1, 2, 3],  # noqa: B006
    integers: bool = False,
    workers: PositiveInt = 1,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    json: bool = False,
) -> None:
    """Measures full precision and configs from files, over several noise seeds: verify what a search found.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        configs: config files (`best.json` of a search), or options such as uaq-4 for uniform configs; then @
            and an activation option (uaq-4@8) or a schedule file, where the bank has activation options.
            Activations are simulated.
        evaluation: prompts, reference images (none: paired labels alone), metrics, image count, steps,
            guidance.
        noise_seeds: one measurement per seed; the table shows mean and standard deviation. The store's labels
            use seed 0, so other seeds verify what was not searched on.
        integers: compute in integers where a Linear layer has activations of 8 bits (8, 8h or 8m), with its
            weight rounded to 8 bits by row; all else, attention products too, is simulated as ever.
        workers: processes that measure side by side on the CPU, one thread each.
        device: where one process measures when workers is 1.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        json: print JSON.
    """
    loaded = Bank.load(bank)
    evaluation = evaluation.held_out()
    named, activations = read_configs(loaded, configs)
    full = np.full((1, len(loaded.layers)), FULL_PRECISION, dtype=np.int8)
    vectors = np.concatenate([full, named])
    shared: dict[str, Any] = {"num_images": evaluation.num_images, "activations": [None, *activations]}
    make = functools.partial(Measurer, integers=integers)
    with bar("Measure") as progress:
        if workers > 1:
            with Pool(make, pipeline, bank, evaluation, workers, device, dtype) as pool:
                rows = verify(vectors, noise_seeds, pool.run, **shared, progress=progress)
        else:
            measurer = make(
                load_pipeline(pipeline, device=device, dtype=dtype, encoders=False), loaded, evaluation
            )
            rows = verify(vectors, noise_seeds, measurer.run, **shared, progress=progress)
    num_weights = int(loaded.num_weights.sum())
    sizes = [_FULL_BYTES * num_weights, *loaded.config_bytes(named).tolist()]
    for name, size, row in zip(["full precision", *configs], sizes, rows, strict=True):
        row |= {"name": name, "bytes": size, "avg_bits": 8 * size / num_weights}
    if json:
        print_json(rows)
    else:
        console.print(_table(rows))
        if any(vector is not None for vector in activations):
            how = "computed in integers where Linear layers have 8 bits, else simulated"
            console.print(f"activations are {how if integers else 'simulated'}")


def _table(rows: list[dict[str, Any]]) -> Table:
    images, seeds = rows[0]["num_images"], rows[0]["seeds"]
    title = f"measured on {images} images with noise seeds {', '.join(map(str, seeds))}"
    return measured_table(title, rows)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(measure, words)
