"""One class per scheme of rounding and per transform in front of it; options are made of these by letter."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from qsd.quantizers.activations.arithmetic import affine, round_to, round_tokens
from qsd.quantizers.activations.options import ActivationOption
from qsd.quantizers.activations.ranges import Ranges
from qsd.quantizers.activations.rotation import rotate
from qsd.support.errors import QsdError

Rounding = Callable[[Tensor], Tensor]
"""Maps the input of a layer, channels last, to what the layer computes with; same shape and dtype."""


class Transform(Protocol):
    """An invertible map of the channels; the inverse belongs to the weight, and is folded into it."""

    def forward(self, values: Tensor) -> Tensor: ...
    def inverse(self, values: Tensor) -> Tensor: ...
    def span(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest transformed value over all calibrated images, scalars."""


class Identity:
    """Nothing in front."""

    def __init__(self, ranges: Ranges | None) -> None:
        self._ranges = ranges

    def forward(self, values: Tensor) -> Tensor:
        return values

    inverse = forward

    def span(self) -> tuple[Tensor, Tensor]:
        assert self._ranges is not None
        return self._ranges.low.min(), self._ranges.high.max()


class Rotation(Identity):
    """Block-Hadamard rotation, its own inverse."""

    def forward(self, values: Tensor) -> Tensor:
        return rotate(values)

    inverse = forward

    def span(self) -> tuple[Tensor, Tensor]:
        assert self._ranges is not None
        return self._ranges.rotated_low.min(), self._ranges.rotated_high.max()


class Smoothing(Identity):
    """Division of every channel by a divisor of its own."""

    def __init__(self, ranges: Ranges | None) -> None:
        super().__init__(ranges)
        assert ranges is not None
        self._divisors = ranges.smoothing()

    def forward(self, values: Tensor) -> Tensor:
        return values / self._divisors.to(values)

    def inverse(self, values: Tensor) -> Tensor:
        return values * self._divisors.to(values)

    def span(self) -> tuple[Tensor, Tensor]:
        assert self._ranges is not None
        return (self._ranges.low / self._divisors).min(), (self._ranges.high / self._divisors).max()


class TokenWise:
    """Each token on a grid of its own, on the fly."""

    def __init__(self, bits: int, transform: Transform) -> None:
        self._bits = bits

    def __call__(self, values: Tensor) -> Tensor:
        return round_tokens(values, self._bits)


class Static:
    """The whole tensor on one grid that calibration fixed; what lies beyond is clipped."""

    def __init__(self, bits: int, transform: Transform) -> None:
        self._bits = bits
        self._grid = affine(*transform.span(), bits)

    def __call__(self, values: Tensor) -> Tensor:
        if not values.isfinite().all():
            raise FloatingPointError
        step, zero_point = (part.to(values) for part in self._grid)
        return round_to(values, step, zero_point, self._bits)


TRANSFORMS: dict[str, type[Identity]] = {"": Identity, "h": Rotation, "m": Smoothing}
SCHEMES: dict[bool, type[TokenWise] | type[Static]] = {False: TokenWise, True: Static}


def rounding(option: ActivationOption, ranges: Ranges | None, layer: str) -> Rounding | None:
    """What an option does to the input of a layer.

    Args:
        option: the option.
        ranges: of the layer's input, for options that need them.
        layer: its name, for messages.

    Returns:
        The map, or None where the input stays as it is. It raises QsdError when an input holds NaN or
        infinity.

    Raises:
        QsdError: the option needs ranges and there are none.
    """
    if option.is_full:
        return None
    if option.needs_ranges and ranges is None:
        raise QsdError(
            f"layer '{layer}': activation option {option} needs ranges of full-precision images, and none "
            "were calibrated; calibrate first or use an option without t and m"
        )
    transform = TRANSFORMS[option.transform](ranges)
    scheme = SCHEMES[option.static](option.bits, transform)

    def apply(values: Tensor) -> Tensor:
        try:
            rounded = transform.inverse(scheme(transform.forward(values.float())))
        except FloatingPointError:
            raise QsdError(
                f"layer '{layer}': its input holds NaN or infinity, which {option} cannot round; compute in "
                "float32 or give the layers before it more bits"
            ) from None
        limit = torch.finfo(values.dtype).max
        return rounded.clamp_(-limit, limit).to(values.dtype)

    return apply
