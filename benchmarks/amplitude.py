"""What quantization should do about the amplitude it takes: every rule, uniform configs, all miniatures.

Rules for ranges (uniform grids): the range of the values, or the shrunk range with the least mean |error|^p.
Rules for gain: tables as they are, stretched half way, or to <q, w> = <w, w>; of channels or of the tensor.
`docs/options.md` reads the table; `results/amplitude.json` holds it.

    python benchmarks/amplitude.py
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from uniform import RESULTS, Replace, study

from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.amplitude import gain
from qsd.quantizers.coding import encode, lookup
from qsd.quantizers.kmeans import kmeans_codebooks

SHRINKS = 1 - torch.arange(16) / 20
Quantize = Callable[[Tensor], Tensor]


def affine(rows: Tensor, bits: int, power: float) -> Tensor:
    """Rows on uniform grids whose ranges have the least mean |error|^power; inf is the whole range."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    top = 2**bits - 1
    best, least = torch.zeros_like(rows), torch.full((len(rows), 1), torch.inf, dtype=torch.float64)
    for keep in SHRINKS if power < torch.inf else SHRINKS[:1]:
        scale = ((high - low) * keep / top).clamp_min(1e-12)
        zero = torch.round(-low * keep / scale)
        restored = ((rows / scale + zero).round().clamp(0, top) - zero) * scale
        error = (rows - restored).abs().double().pow(min(power, 2.0) if power == torch.inf else power)
        error = error.mean(dim=1, keepdim=True)
        best = torch.where(error < least, restored, best)
        least = torch.minimum(error, least)
    return best


def kmeans(rows: Tensor, bits: int, per_tensor: bool) -> Tensor:
    """Rows, or the tensor, on the codebook of least squared error."""
    values = rows.reshape(1, -1) if per_tensor else rows
    book = kmeans_codebooks(values, [2**bits], compiled=True)[2**bits].float()
    return lookup(book, encode(values, book, compiled=True)).view_as(rows)


def stretched(rows: Tensor, restored: Tensor, share: float, per_tensor: bool) -> Tensor:
    """Rows with a share of the gain, of each or of the tensor."""
    one, other = (each.reshape(1, -1) if per_tensor else each for each in (rows, restored))
    return restored * (1 + share * (gain(one, other, compiled=True) - 1)).float()[:, None]


def rule(quantize: Quantize, share: float, per_tensor: bool) -> Replace:
    """A rule as what replaces a layer's weight; bytes are those of the option and not the point here."""

    def replace(layer: WeightLayer, weight: Tensor) -> tuple[Tensor, int]:
        rows = weight.reshape(len(weight), -1).float()
        return stretched(rows, quantize(rows), share, per_tensor).view_as(weight), 0

    return replace


def variants() -> dict[str, Replace]:
    """All rules by name: option, range, gain."""
    grids: dict[str, tuple[Quantize, bool]] = {}
    for bits in (3, 4):
        for power in (2.0, 2.4, 3.0, 4.0, 6.0, torch.inf):
            grids[f"uaq-{bits} p={power:g}"] = (lambda rows, b=bits, p=power: affine(rows, b, p)), False
        for per_tensor in (False, True):
            name = f"kmeans_{'a' if per_tensor else 'c'}-{bits}"
            grids[name] = (lambda rows, b=bits, t=per_tensor: kmeans(rows, b, t)), per_tensor
    found = {}
    for name, (quantize, per_tensor) in grids.items():
        for share in (0.0, 0.5, 1.0):
            found[f"{name} gain={share:g}"] = rule(quantize, share, per_tensor)
    return found


def main(words: list[str]) -> None:
    """Runs the study, or goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "amplitude.json")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--miniatures", nargs="*")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    given = parser.parse_args(words)
    chosen = {name: replace for name, replace in variants().items() if given.only in name}
    study(given.out, chosen, names=given.miniatures, num_images=given.images)


if __name__ == "__main__":
    main(sys.argv[1:])
