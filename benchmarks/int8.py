"""Integer layers beside bfloat16: time of a full-width block, and what they draw beside the simulation.

    python benchmarks/int8.py [--on digits-pixart-alpha] [--images 1000] [--out benchmarks/results/int8.json]

Time: one block of PixArt-XL (1,152 wide) on 1,024 tokens and 120 words, on one thread, the two taking turns;
the least processor time of the repetitions counts, as other programs can only add to it. Images: the
miniature with weights of one option (`int8` of the default table) and 8-bit inputs, simulated and computed
in integers, against full precision.
"""

import argparse
import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import nn

from qsd.api import build_bank
from qsd.configs.activations import uniform_activations
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels import Measurer
from qsd.labels.verifying import summarize
from qsd.quantizers.activations import ActivationOption
from qsd.runtime.int8 import use_int8
from qsd.support.documents import write_json
from qsd.zoo.registry import labeling_settings

WIDTH, TOKENS, WORDS = 1152, 1024, 120
EIGHT = ActivationOption(8)


def block_times(repetitions: int) -> dict[str, float]:
    """Milliseconds of the block in bfloat16 and with integer layers, and the ratio."""
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(num_layers=1, sample_size=64, caption_channels=64)
    block: nn.Module = model.transformer_blocks[0].to(torch.bfloat16).eval()
    integer = copy.deepcopy(block)
    replaced = use_int8(integer, {name: EIGHT for name, _ in block.named_modules() if name})
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, TOKENS, WIDTH, dtype=torch.bfloat16),
        "encoder_hidden_states": torch.randn(1, WORDS, WIDTH, dtype=torch.bfloat16),
        "timestep": torch.randn(1, 6 * WIDTH, dtype=torch.bfloat16),
    }
    best = {"bfloat16": float("inf"), "int8": float("inf")}
    with torch.inference_mode():
        full, rounded = block(**inputs), integer(**inputs)
        for _ in range(repetitions):
            for name, module in (("bfloat16", block), ("int8", integer)):
                start = time.thread_time()
                module(**inputs)
                best[name] = min(best[name], 1000 * (time.thread_time() - start))
    change = (rounded - full).float().norm() / full.float().norm()
    return {
        **best,
        "speedup": best["bfloat16"] / best["int8"],
        "layers": len(replaced),
        "relative_change": float(change),
    }


def images(name: str, option: str, count: int, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """Labels of full precision, of the weights alone, of the simulation, and of integer layers."""
    pipe: Any = load_pipeline(f"checkpoints/{name}")
    settings = dataclasses.replace(labeling_settings(name), num_images=count)
    bank = build_bank(pipe, [option], activations=["16", "8"])
    config = bank.uniform_config(option)
    eight = uniform_activations(bank.activation_options, bank.macs, EIGHT)
    found: dict[str, dict[str, Any]] = {}
    for row, vector, integers in (
        (f"{option}, 16-bit inputs", None, False),
        (f"{option}, 8-bit inputs, simulated", eight, False),
        (f"{option}, 8-bit inputs, integers", eight, True),
    ):
        measurer = Measurer(pipe, bank, settings, integers=integers)
        if not found:
            labels = [measurer.full_precision(seed).labels for seed in seeds]
            found["full precision"] = summarize(labels, seeds, count)
        labels = [measurer.measure(config, seed, vector).labels for seed in seeds]
        found[row] = summarize(labels, seeds, count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--on", default="digits-pixart-alpha")
    parser.add_argument("--option", default="int8", help="of the weights")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/int8.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"block": block_times(arguments.repetitions)}
    print(result["block"])
    result |= {"on": arguments.on, "option": arguments.option}
    result["images"] = images(arguments.on, arguments.option, arguments.images, arguments.seeds)
    for row, labels in result["images"].items():
        print(f"{row:34s} FID {labels['fid']:.3f}  latent MSE {labels['latent_mse']:.4f}")
    write_json(arguments.out, result, hashed=False)


if __name__ == "__main__":
    main()
