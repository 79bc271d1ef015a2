#!/usr/bin/env bash
# hqq 0.2.8.post1: along axis 1, too, groups are cut from the flattened weight, so they reach across output channels.
#
# With axis=1 a group is expected to be some inputs of one output channel. Where the inputs are no multiple of the
# group, nothing is refused as long as the whole weight is one: the last group of a row goes on in the next row, and
# two output channels share a scale and a zero point. Another second row then changes how the first one is
# dequantized; with inputs that are a multiple it does not. The output is
#
#   16 x 96, groups of 32: first row changes by 0.0 when the second one does
#   16 x 100, groups of 32: first row changes by 12.2 when the second one does
#
# Convolutions of a diffusion model's first layer (4 channels of 3 x 3: 36 inputs) are of this kind.
# Needs Python 3.10 or later; uses the torch of $PYTHON if it has one, else installs torch 2.13.0.
set -euo pipefail
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install -q --target "$work" torch==2.13.0
"$python" -m pip install -q --no-deps --target "$work" --upgrade hqq==0.2.8.post1 termcolor==3.3.0 tqdm numpy
PYTHONPATH="$work" "$python" - 2>/dev/null <<'PYTHON'
import torch
from hqq.core.quantize import Quantizer


def first_row(weight: torch.Tensor) -> torch.Tensor:
    stored, about = Quantizer.quantize(
        weight, nbits=4, group_size=32, axis=1, optimize=False, device="cpu", compute_dtype=torch.float32
    )
    return Quantizer.dequantize(stored, about)[0]


changes = {}
for inputs in (96, 100):
    weight = torch.randn(16, inputs, generator=torch.Generator().manual_seed(0))
    other = weight.clone()
    other[1] *= 100
    changes[inputs] = (first_row(weight) - first_row(other)).abs().max().item()
    print(f"16 x {inputs}, groups of 32: first row changes by {changes[inputs]:.1f} when the second one does")
assert changes[96] == 0 and changes[100] > 0.1, "the finding no longer holds"
PYTHON
