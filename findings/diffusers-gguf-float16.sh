#!/usr/bin/env bash
# diffusers 0.42.1: layers loaded from a GGUF file dequantize in float16 whatever compute_dtype says.
#
# GGUFQuantizationConfig(compute_dtype=torch.float32) computes with weights that were multiplied out in float16
# and then widened: every weight of a Q8_0 tensor is off by up to 2^-11 of its size from what the package gguf,
# and ggml's float32 dequantization, restore from the same bytes. With bfloat16 the weights are rounded twice.
# Seen on CPU, where diffusers has no fused kernels. The output ends with
#
#   largest relative difference: diffusers 4.9e-04, rounded to float16 first 0.0e+00
#
# Needs Python 3.10 or later; uses the torch of $PYTHON if it has one, else installs torch 2.13.0.
set -euo pipefail
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install -q --target "$work" torch==2.13.0
"$python" -m pip install -q --no-deps --target "$work" --upgrade diffusers==0.42.1 gguf==0.19.0
"$python" -m pip install -q --target "$work" numpy pyyaml requests tqdm filelock regex importlib_metadata Pillow \
    "huggingface_hub>=0.34" safetensors
PYTHONPATH="$work" "$python" - <<'PYTHON'
import gguf
import numpy as np
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

kind = gguf.GGMLQuantizationType.Q8_0
weight = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
blocks = gguf.quants.quantize(weight, kind)
right = torch.from_numpy(gguf.quants.dequantize(blocks, kind))

layer = GGUFLinear(64, 64, bias=False, compute_dtype=torch.float32)
layer.weight = GGUFParameter(torch.from_numpy(blocks), quant_type=kind)
found = layer(torch.eye(64)).T

assert found.dtype == torch.float32
size = right.abs().clamp_min(1e-3)
off = ((found - right).abs() / size).max().item()
halved = ((found - right.half().float()).abs() / size).max().item()
print(f"largest relative difference: diffusers {off:.1e}, rounded to float16 first {halved:.1e}")
assert 1e-4 < off < 1e-3, "the weights are those of the file now: the finding no longer holds"
assert halved == 0, "they differ from those of the file in another way now"
PYTHON
