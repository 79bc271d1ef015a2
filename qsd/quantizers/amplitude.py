"""What quantization takes from the amplitude of a weight, and how tables give it back at no byte.

Centroids are conditional means and clipped ranges cut off: <q, w> is below <w, w>, so every layer of a deep
network loses amplitude and the losses multiply. Dividing a table by that share keeps what a layer does to its
own direction unbiased, at a slightly larger squared error (`benchmarks/amplitude.py`: what that is worth).
"""

import torch
from torch import Tensor

_MOST = 2.0  # a table is never stretched further; only degenerate rows would ask for it


def gain(exact: Tensor, restored: Tensor, *, compiled: bool) -> Tensor:
    """<w, w> / <q, w> of each row: what the row's table is multiplied by.

    Args:
        exact: float32 [R, n].
        restored: float32 [R, n], the same rows as quantized.
        compiled: whether to use the numba kernel, on the CPU.

    Returns:
        float64 [R], 1 for rows that quantization leaves nothing of.
    """
    if compiled:
        from qsd.quantizers import kernels

        energy, kept = torch.empty(2, len(exact), dtype=torch.float64)
        pair = exact.contiguous().numpy(), restored.contiguous().numpy()
        kernels.amplitudes(*pair, energy.numpy(), kept.numpy())
    else:
        energy = exact.double().square().sum(dim=1)
        kept = (exact.double() * restored.double()).sum(dim=1)
    usable = (kept > 0) & (energy > 0)
    return torch.where(usable, energy / kept, 1.0).clamp(1 / _MOST, _MOST)
