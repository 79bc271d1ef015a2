"""Uniform affine quantization per output channel, with a search for the best clipping of the range."""

import torch
from torch import Tensor

SHRINKS = tuple(tenths / 10 for tenths in range(10))
"""Shares by which maximum and minimum are shrunk together; the best one per channel is kept."""

ERROR_POWER = 2.4

FARTHEST_ZERO = 1 << 14
"""Largest |zero point|. A channel whose values are all far from zero and close together takes a larger scale
instead, an error below 1/30,000 of its values; the rounding of the scale then still fits into int16."""


def search(rows: Tensor, bits: int, storage: torch.dtype, *, compiled: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each channel with the least mean |error|^2.4 (Li et al., BRECQ, ICLR 2021).

    Candidates are rounded to how they are stored before their errors are measured.

    Args:
        rows: float32 [O, n], finite.
        bits: Bits per code.
        storage: float16 or bfloat16, the type of the scale.
        compiled: Whether to use the numba kernels, on the CPU.

    Returns:
        Scale ([O] of the storage type) and zero point (int16 [O]).
    """
    scale, zero_point = _candidates(rows, bits, storage)
    if compiled:
        from qsd.quantizers import kernels

        errors = torch.empty(scale.shape)
        kernels.power_errors(
            rows.numpy(), scale.float().numpy(), zero_point.float().numpy(), bits, errors.numpy()
        )
    else:
        errors = torch.stack(
            [_power_errors(rows, s, z, bits) for s, z in zip(scale.T, zero_point.T, strict=True)], 1
        )
    best = (errors.double() * scale.double() ** ERROR_POWER).argmin(dim=1, keepdim=True)
    return scale.gather(1, best)[:, 0], zero_point.gather(1, best)[:, 0]


def _candidates(rows: Tensor, bits: int, storage: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every shrink, as stored, [O, number of shrinks]."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    keep = 1 - torch.tensor(SHRINKS, dtype=torch.float64, device=rows.device)
    low, high = low.double() * keep, high.double() * keep
    scale = (high - low) / ((1 << bits) - 1)
    scale = torch.maximum(scale, torch.maximum(low.abs(), high.abs()) / FARTHEST_ZERO)
    smallest = 2.0**-24 if storage == torch.float16 else torch.finfo(storage).tiny
    stored = scale.clamp(smallest, torch.finfo(storage).max).to(storage)
    return stored, torch.round(-low / stored.double()).to(torch.int16)


def _power_errors(rows: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Sum of |error / scale|^2.4 of each row under one candidate [O]."""
    exact = rows / scale.float()[:, None] + zero_point.float()[:, None]
    codes = exact.round().clamp(0, (1 << bits) - 1)
    return (exact - codes).abs().pow(ERROR_POWER).sum(dim=1)
