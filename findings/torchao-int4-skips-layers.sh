#!/usr/bin/env bash
# torchao 0.18.0: Int4WeightOnlyConfig leaves layers in full precision whose width its groups do not divide.
#
# A denoiser 320 or 960 wide, as Stable Diffusion 1.5 is on its first level, is no multiple of the default group of
# 128. quantize_ returns as if all had been done: such a layer keeps a plain parameter, nothing is raised, and no
# warning is given (a message of level INFO aside, which nobody sees unless logging was set up for it).
# IntxWeightOnlyConfig of 4 bits with the same groups refuses the same layer by an error. The output is
#
#   Int4WeightOnlyConfig, 320 wide: Parameter, torch.bfloat16, warnings: 0
#   IntxWeightOnlyConfig, 320 wide: refused
#
# Needs Python 3.10 or later; uses the torch of $PYTHON if it has one, else installs torch 2.13.0.
set -euo pipefail
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install -q --target "$work" torch==2.13.0
"$python" -m pip install -q --no-deps --target "$work" --upgrade torchao==0.18.0
PYTHONPATH="$work" "$python" - 2>/dev/null <<'PYTHON'
import warnings

import torch
from torchao.quantization import Int4WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

model = torch.nn.Sequential(torch.nn.Linear(320, 320, bias=False)).to(torch.bfloat16)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    quantize_(model, Int4WeightOnlyConfig())
weight = model[0].weight
about = [each for each in told if "group" in str(each.message) or "skip" in str(each.message).lower()]
print(f"Int4WeightOnlyConfig, 320 wide: {type(weight).__name__}, {weight.dtype}, warnings: {len(about)}")
assert type(weight) is torch.nn.Parameter and not about, "the finding no longer holds"
try:
    quantize_(model, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(128)))
    refused = False
except AssertionError:
    refused = True
print(f"IntxWeightOnlyConfig, 320 wide: {'refused' if refused else 'taken'}")
assert refused, "the finding no longer holds"
PYTHON
