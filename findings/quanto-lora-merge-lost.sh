#!/usr/bin/env bash
# optimum-quanto 0.2.7 with peft 0.21.2: merging a LoRA into quantized Linear layers changes nothing, in silence.
#
# peft takes quanto's QLinear for a torch Linear (it is a subclass) and adds the LoRA's product to `weight.data` in
# place. The weight is a wrapper tensor: the sum is formed on a dequantized copy, and the copy is thrown away. Before
# merging the LoRA counts (outputs move by three quarters); after `merge_and_unload` the model answers bit for bit as if
# there had never been one, without an error or a warning. `fuse_lora` of diffusers merges by the same call. With
# dense layers the merged model answers as the one with the LoRA did. The output is
#
#   dense: LoRA moves outputs by 77 %, merged by 77 %
#   qint8: LoRA moves outputs by 77 %, merged by 0 %, warnings: 0
#   qint4: LoRA moves outputs by 78 %, merged by 0 %, warnings: 0
#   qfloat8: LoRA moves outputs by 78 %, merged by 0 %, warnings: 0
#
# Needs Python 3.10 or later; uses the torch of $PYTHON if it has one, else installs torch 2.13.0.
set -euo pipefail
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install -q --target "$work" torch==2.13.0
"$python" -m pip install -q --target "$work" --upgrade --no-deps peft==0.21.2 optimum-quanto==0.2.7
"$python" -c 'import transformers, accelerate' 2>/dev/null ||
    "$python" -m pip install -q --target "$work" transformers==5.23.0 accelerate==1.15.0 torch==2.13.0
PYTHONPATH="$work" "$python" - 2>/dev/null <<'PYTHON'
import warnings

import optimum.quanto as quanto
import torch
from peft import LoraConfig, get_peft_model


def moved(values, others):
    return round(100 * float((values - others).norm() / others.norm()))


inputs = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
lost = []
for kind in ("dense", "qint8", "qint4", "qfloat8"):
    torch.manual_seed(0)
    layers = (torch.nn.Linear(128, 128), torch.nn.GELU(), torch.nn.Linear(128, 128))
    model = torch.nn.Sequential(*layers).eval()
    if kind != "dense":
        quanto.quantize(model, weights=getattr(quanto, kind))
        quanto.freeze(model)
    with torch.no_grad():
        plain = model(inputs)
        lora = LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=["0", "2"])
        adapted = get_peft_model(model, lora).eval()
        with_lora = adapted(inputs)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            merged = adapted.merge_and_unload()(inputs)
    about = [each for each in told if "merge" in str(each.message).lower()]
    line = f"{kind}: LoRA moves outputs by {moved(with_lora, plain)} %, merged by {moved(merged, plain)} %"
    print(line if kind == "dense" else f"{line}, warnings: {len(about)}")
    lost.append(torch.equal(merged, plain) and not about)
assert lost == [False, True, True, True], "the finding no longer holds"
PYTHON
