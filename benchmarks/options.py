"""Options as uniform configs: bytes, error of the weights, FID and PSNR on all miniatures.

A layer that cannot take an option takes one codebook, scaled by row, of as many bits.
`results/options.json` holds what is printed.

    python benchmarks/options.py
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from torch import Tensor
from uniform import RESULTS, Replace, study

from qsd.denoisers.layers import WeightLayer
from qsd.quantizers import DEFAULT_OPTIONS, PAPER_OPTIONS, Option, quantize

CANDIDATES = [
    "lloyd-2g16:s8",
    "lloyd-3:s8",
    "lloyd-3g64:s8",
    "lloyd-3g32:s8",
    "lloyd-3g16:s8",
    "lloyd-4:s8",
    "lloyd-4g64:s8",
    "lloyd-4g32:s8",
    "lloyd-4g16:s8",
    "lloyd-5:s8",
    "lloyd-5g32:s8",
    "lloyd-6g32:s8",
    "uaq-3",
    "uaq-4",
    "uaq-3g32:s8",
    "uaq-4g32:s8",
    "uaq-4g64",
    "int8",
    "kmeans_c-3",
    "kmeans_c-4",
    "kmeans_a-3",
    "kmeans_a-4",
    "nf4g64:s8",
    "fp4g16:f8",
    "q4_0",
    "q5_0",
    "q8_0",
    "hadamard+lloyd-3g32:s8",
    "hadamard+lloyd-4:s8",
    "lloyd-3g32:s8+r4",
]


def uniform(option: Option) -> Replace:
    """The uniform config of an option."""
    grid = Option.parse(f"lloyd-{int(min(option.traits.bits, 6))}:s8")

    def replace(layer: WeightLayer, weight: Tensor) -> tuple[Tensor, int]:
        own = option if option.accepts(layer.shape) else grid
        form = quantize(weight, [own])[own]
        return form.dequantize(), form.num_bytes

    return replace


def main(words: list[str]) -> None:
    """Runs the study, or goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "options.json")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--miniatures", nargs="*")
    parser.add_argument("--options", nargs="*")
    given = parser.parse_args(words)
    default = dict.fromkeys([*map(str, (*PAPER_OPTIONS, *DEFAULT_OPTIONS)), *CANDIDATES])
    variants = {text: uniform(Option.parse(text)) for text in given.options or default}
    found = study(given.out, variants, names=given.miniatures, num_images=given.images)
    for text in variants:
        rows = [(row[text], row["full"]) for row in found.values() if text in row]
        cells = [f"{mine['avg_bits']:5.2f} {mine['fid'] / full['fid']:6.2f}x" for mine, full in rows]
        mse = np.exp(np.mean([np.log(mine["latent_mse"]) for mine, _ in rows]))
        print(f"{text:24s} {mse:.5f}", *cells)


if __name__ == "__main__":
    main(sys.argv[1:])
