"""What full-precision images tell about the input of a layer: its range, channel by channel."""

import dataclasses
from typing import Protocol, Self

import torch
from torch import Tensor

from qsd.quantizers.activations.options import ActivationOption
from qsd.quantizers.rotation import rotate

_SMALLEST = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What one option needs to know of the input of a layer with C channels.

    Attributes:
        span: float32 [2], smallest and largest value of the transformed input, for static ranges.
        divisors: float32 [C], of the channels, for smoothing.
    """

    span: Tensor | None = None
    divisors: Tensor | None = None


class Calibrated(Protocol):
    """Knows the input of a layer."""

    def calibration(self, option: ActivationOption) -> Calibration:
        """What an option needs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ranges:
    """Smallest and largest values of the C input channels of a layer, as they are and rotated.

    Attributes:
        low, high: float32 [C].
        rotated_low, rotated_high: float32 [C], of the rotated input.
        weight: float32 [C], largest magnitude of the layer's weights that read a channel.
    """

    low: Tensor
    high: Tensor
    rotated_low: Tensor
    rotated_high: Tensor
    weight: Tensor

    @classmethod
    def of(cls, values: Tensor, weight: Tensor) -> Self:
        """Of one input [..., C] and the weight [O, C / groups, ...] that reads it."""
        rows = values.detach().float().reshape(-1, values.shape[-1])
        rotated = rotate(rows)
        groups = rows.shape[1] // weight.shape[1]
        read = weight.detach().float().abs()
        by_group = read.flatten(2).amax(2) if read.ndim > 2 else read
        largest = by_group.unflatten(0, (groups, -1)).amax(dim=1).flatten()
        return cls(rows.amin(0), rows.amax(0), rotated.amin(0), rotated.amax(0), largest)

    def merged(self, other: "Ranges") -> "Ranges":
        """The ranges of the inputs of both."""
        return Ranges(
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            torch.minimum(self.rotated_low, other.rotated_low),
            torch.maximum(self.rotated_high, other.rotated_high),
            self.weight,
        )

    def calibration(self, option: ActivationOption) -> Calibration:
        """What an option needs."""
        divisors = self.smoothing() if option.transform == "m" else None
        low, high = (
            (self.rotated_low, self.rotated_high) if option.transform == "h" else (self.low, self.high)
        )
        if divisors is not None:
            low, high = low / divisors, high / divisors
        return Calibration(torch.stack([low.min(), high.max()]) if option.static else None, divisors)

    def smoothing(self) -> Tensor:
        """Divisors of the channels that share the outliers between input and weight, float32 [C].

        The square root of the ratio of their largest magnitudes (SmoothQuant, Xiao et al. 2023, with a
        migration strength of one half).
        """
        largest = torch.maximum(self.low.abs(), self.high.abs()).clamp_min(_SMALLEST)
        return (largest / self.weight.clamp_min(_SMALLEST)).sqrt().clamp_min(_SMALLEST)
