#!/usr/bin/env bash
# bitsandbytes 0.50.2 on CPU: dequantize_4bit takes the wrong scales where rows are no multiple of the block.
#
# quantize_4bit cuts a weight into blocks along its flat values, whatever its shape: codes and scales of a
# [96, 96] weight are those of the same values as one row. dequantize_4bit restores the one row rightly, and
# from the very same codes and scales another [96, 96] weight: blocks of 64 do not divide rows of 96. Nothing
# is raised; the error of nf4 is nine times as large (square, relative: .076 in place of .0086). Rows of 192
# are right with blocks of 64 and wrong with 128. Layers of published models are mostly multiples of 64, small
# ones, and inputs such as 16 channels x 3 x 3, are not. The output ends with
#
#   [96, 96]: codes equal True, scales equal True, error as a matrix 0.0757, as one row 0.0086
#
# Needs Python 3.10 or later; uses the torch of $PYTHON if it has one, else installs torch 2.13.0.
set -euo pipefail
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install -q --target "$work" torch==2.13.0
"$python" -m pip install -q --no-deps --target "$work" --upgrade bitsandbytes==0.50.2
"$python" -m pip install -q --target "$work" numpy packaging
PYTHONPATH="$work" "$python" - <<'PYTHON'
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

torch.manual_seed(0)
weight = 0.05 * torch.randn(96, 96)


def restored(values):
    codes, state = quantize_4bit(values, blocksize=64, quant_type="nf4")
    back = dequantize_4bit(codes, state).view_as(weight)
    error = ((back - weight).square().mean() / weight.square().mean()).item()
    return codes, state.absmax, error


matrix, row = restored(weight), restored(weight.reshape(1, -1))
same = torch.equal(matrix[0], row[0]), torch.equal(matrix[1], row[1])
print(
    f"[96, 96]: codes equal {same[0]}, scales equal {same[1]}, "
    f"error as a matrix {matrix[2]:.4f}, as one row {row[2]:.4f}"
)
assert all(same) and matrix[2] > 3 * row[2], "both are restored alike now: the finding no longer holds"
PYTHON
