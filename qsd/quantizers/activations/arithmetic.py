"""Uniform affine rounding of activations, and of attention probabilities, in simulation."""

import torch
from torch import Tensor

PROBABILITY_BITS = 8


def affine(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero point of the asymmetric grid of 2^bits levels from ``low`` to ``high``.

    A range of a single value v gets step |v|, so that the value lies on the grid.

    Returns:
        Step and zero point (an integer as float), each of the shape of ``low``; code = round(x / step) + zero
        point, x = (code - zero point) * step.
    """
    step = (high - low) / (2**bits - 1)
    single = step <= torch.finfo(step.dtype).tiny
    step = torch.where(single, low.abs(), step)
    step = torch.where(step <= torch.finfo(step.dtype).tiny, 1.0, step)
    return step, torch.round(-low / step)


def round_to(values: Tensor, step: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Values [...] moved to the nearest point of a grid; beyond its ends to the ends."""
    codes = torch.round(values / step) + zero_point
    return (codes.clamp_(0, 2**bits - 1) - zero_point) * step


def round_tokens(values: Tensor, bits: int) -> Tensor:
    """Rounds every token on a grid of its own, from its smallest to its largest value.

    Args:
        values: float32 [..., C], a token being what one last axis holds.
        bits: of the codes.

    Raises:
        FloatingPointError: a token holds NaN or infinity.
    """
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    if not (high - low).isfinite().all():
        raise FloatingPointError
    return round_to(values, *affine(low, high, bits), bits)


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """Rounded values; where values learn, with the gradient of values that were not rounded."""
    if not (values.requires_grad and torch.is_grad_enabled()):
        return rounded
    return values + (rounded - values).detach()


def round_probabilities(probabilities: Tensor) -> Tensor:
    """Rounds attention probabilities [..., keys] to 8 bits with zero point 0, from 0 to the row's largest."""
    largest = probabilities.amax(dim=-1, keepdim=True)
    step = (largest / (2**PROBABILITY_BITS - 1)).clamp_min(torch.finfo(probabilities.dtype).tiny)
    return straight_through(probabilities, torch.round(probabilities / step) * step)
