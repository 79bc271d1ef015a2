"""The scale on which damage adds up: a monotone transform of the standardized target, and its inverse.

Damages of layers add up in FID rather than in log FID, or somewhere in between. The exponential transform of
Manly, "Exponential data transformations" (The Statistician 25, 1976) covers these and the identity: with the
target -log(fid), power 0 adds damages up in log FID and a negative power closer to FID itself.
"""

import torch
from torch import Tensor

_SMALLEST = 1e-3  # closer to 0 the transform is the identity but for rounding


def warp(values: Tensor, power: Tensor | float) -> Tensor:
    """(exp(power * z) - 1) / power, elementwise; rises with z, slope 1 at 0.

    Args:
        values: standardized target z, float [...].
        power: -1 to 1; 0 is the identity.
    """
    power = _nonzero(power, values)
    return torch.expm1(power * values) / power


def unwarp(warped: Tensor, power: Tensor | float, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Inverse of :func:`warp` from ``low`` to ``high``, continued beyond along its tangents.

    Predictions may lie where the transform has no inverse. The tangents keep their order.

    Args:
        warped: float [...].
        power: as in :func:`warp`.
        low, high: range of the standardized target in the training records.
    """
    power = _nonzero(power, warped)
    ends = [
        warp(torch.as_tensor(end, dtype=warped.dtype, device=warped.device), power) for end in (low, high)
    ]
    inside = warped.clamp(*ends)
    values = torch.log1p(power * inside) / power
    return values + (warped - inside) * torch.exp(-power * values)


def _nonzero(power: Tensor | float, like: Tensor) -> Tensor:
    power = torch.as_tensor(power, dtype=like.dtype, device=like.device)
    return torch.where(power.abs() < _SMALLEST, _SMALLEST, power)
