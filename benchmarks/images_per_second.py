"""Images a second: qsd's loop beside a plain one on the same pipeline.

    python benchmarks/images_per_second.py
    python benchmarks/images_per_second.py checkpoints/digits-dit --config label_dit.yaml --images 50

The plain loop calls the pipeline with text, batch by batch, as its documentation does; qsd encodes the
prompts once. Labels also compute once a batch what repeats in every step. All draw the same prompts with the
same settings in turns, in one process. Prints images a second, the ratio of the first two, and the processor
time that labels take less than the second; with --compiled also of labels whose denoisers were compiled
beforehand (`evaluation.compile`). (`qsd label --profile` says where the time of a label goes.)
"""

import argparse
import dataclasses
import inspect
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

_FINDING = 3  # drawings in which labels find out what repeats


def main() -> None:
    """Times all loops in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", nargs="?", default="checkpoints/digits-pixart-alpha")
    parser.add_argument("--config", default="label_digits.yaml")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="labels by torch.compile, too")
    arguments = parser.parse_args()
    settings = EvaluationSettings(**read_yaml(find(arguments.config))["evaluation"])
    settings = dataclasses.replace(
        settings, num_images=arguments.images, batch_size=min(settings.batch_size, arguments.images)
    )
    pipe = load_pipeline(arguments.pipeline)
    pipe.set_progress_bar_config(disable=True)
    generator = Generator(pipe, settings)
    labels = Generator(pipe, settings, unwatched=True)
    loops: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(pipe, settings, generator.prompts),
        "qsd": lambda: list(generator.batches(0)),
        "labels": lambda: list(labels.batches(0)),
    }
    if arguments.compiled:
        compiled = Generator(pipe, dataclasses.replace(settings, compile=True), unwatched=True)
        loops["compiled"] = lambda: list(compiled.batches(0))
    for _ in range(_FINDING):
        list(labels.batches(0))
    cpu_seconds: dict[str, list[float]] = {name: [] for name in loops}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(arguments.rounds + 1):
        for name, loop in loops.items():
            begun, cpu_begun = time.perf_counter(), time.process_time()
            loop()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - begun)
                cpu_seconds[name].append(time.process_time() - cpu_begun)
    pace = {name: arguments.images / statistics.median(times) for name, times in seconds.items()}
    print(", ".join(f"{name} {value:.1f} images/s" for name, value in pace.items()), end="; ")
    print(f"qsd / plain {pace['qsd'] / pace['plain']:.2f}", end="; ")
    saved = [1 - ours / all_ for ours, all_ in zip(cpu_seconds["labels"], cpu_seconds["qsd"], strict=True)]
    print(f"labels take {statistics.median(saved):.1%} less processor time than qsd")


@torch.inference_mode()
def plain(pipe: Any, settings: EvaluationSettings, prompts: list[str]) -> None:
    """What one would write without qsd."""
    accepts = inspect.signature(pipe.__call__).parameters
    sizes = {name: getattr(settings, name) for name in ("height", "width", "max_sequence_length")}
    sizes = {name: value for name, value in sizes.items() if value is not None and name in accepts}
    if "use_resolution_binning" in accepts:
        sizes["use_resolution_binning"] = False
    for start in range(0, len(prompts), settings.batch_size):
        batch = prompts[start : start + settings.batch_size]
        classes = None if hasattr(pipe, "tokenizer") else pipe.get_label_ids(batch)
        pipe(
            **({"prompt": batch} if classes is None else {"class_labels": classes}),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(start + place) for place in range(len(batch))],
            output_type="np",
            **sizes,
        )


if __name__ == "__main__":
    main()
