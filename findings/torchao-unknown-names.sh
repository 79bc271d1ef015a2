#!/usr/bin/env bash
# torchao 0.18.0: FqnToConfig ignores names that no module has, so a misspelt entry quantizes nothing in silence.
#
# quantize_ takes a table from module names to configurations. An entry whose name (or regular expression) fits
# no module raises nothing and warns of nothing; the layer that it meant stays in full precision, and nothing in
# the result tells. The output is
#
#   named right: IntxUnpackedToInt8Tensor; misspelt: Parameter; warnings: 0
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
from collections import OrderedDict

import torch
from torchao.quantization import FqnToConfig, IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
model = torch.nn.ModuleDict({"first": torch.nn.Linear(64, 8), "second": torch.nn.Linear(64, 8)})
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    table = OrderedDict({"first": config, "secnod": config, "re:thrid.*": config})
    quantize_(model, FqnToConfig(table), filter_fn=None)
kinds = [type(model[name].weight).__name__ for name in ("first", "second")]
about = [each for each in told if "secnod" in str(each.message) or "thrid" in str(each.message)]
print(f"named right: {kinds[0]}; misspelt: {kinds[1]}; warnings: {len(about)}")
assert kinds == ["IntxUnpackedToInt8Tensor", "Parameter"] and not about, "the finding no longer holds"
PYTHON
