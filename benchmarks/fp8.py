"""Times one Linear layer stored as fp8_e4m3 in three ways: dense bfloat16, dequantized, multiplied as stored.

python benchmarks/fp8.py
"""

import copy
import time

import torch
from torch import nn

from qsd.quantizers import Option, quantize
from qsd.runtime.fp8 import use_fp8
from qsd.runtime.layers import pack_module
from qsd.runtime.packed import PackedParts

WIDTH, TOKENS, REPEATS = 1152, 1024, 5
OPTION = Option.parse("fp8_e4m3:row")


def processor_time(layer: nn.Module, values: torch.Tensor) -> float:
    """Least processor time of one call over some repeats, in milliseconds."""
    layer(values)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        layer(values)
        times.append(time.process_time() - start)
    return 1e3 * min(times)


@torch.no_grad()
def main() -> None:
    """Prints a line for each way and the relative change of the output."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    values = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16)
    dense = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    packed = copy.deepcopy(dense)
    weight = quantize(packed.weight.detach(), [OPTION])[OPTION]
    pack_module(packed, PackedParts([weight]), torch.bfloat16)
    dense, packed = dense.to(torch.bfloat16), packed.to(torch.bfloat16)
    multiplied = nn.Sequential(copy.deepcopy(packed))
    print(use_fp8(multiplied))
    for name, layer in (("dense", dense), ("dequantized", packed), ("multiplied", multiplied)):
        print(f"{name:12} {processor_time(layer, values):8.2f} ms")
    reference = packed(values).float()
    change = (multiplied(values).float() - reference).norm() / reference.norm()
    print(f"relative change of the output by rounded inputs: {change:.4f}")


if __name__ == "__main__":
    main()
