"""One class per scheme of rounding and per transform in front of it; options are made of these by letter."""

from collections.abc import Callable

import torch
from torch import Tensor

from qsd.quantizers.activations.arithmetic import affine, round_to, round_tokens, straight_through
from qsd.quantizers.activations.options import ActivationOption
from qsd.quantizers.activations.ranges import Calibrated, Calibration
from qsd.quantizers.rotation import rotate
from qsd.support.errors import QsdError

Rounding = Callable[[Tensor], Tensor]
"""Maps the input of a layer, channels last, to what the layer computes with; same shape and dtype."""


class Transform:
    """An invertible map of the channels; the inverse belongs to the weight, and is folded into it."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def forward(self, values: Tensor) -> Tensor:
        return values

    def inverse(self, values: Tensor) -> Tensor:
        return values


class Rotation(Transform):
    """Block-Hadamard rotation, its own inverse."""

    def forward(self, values: Tensor) -> Tensor:
        return rotate(values)

    inverse = forward


class Smoothing(Transform):
    """Division of every channel by a divisor of its own."""

    def forward(self, values: Tensor) -> Tensor:
        return values / self._divisors.to(values)

    def inverse(self, values: Tensor) -> Tensor:
        return values * self._divisors.to(values)

    @property
    def _divisors(self) -> Tensor:
        assert self._calibration.divisors is not None
        return self._calibration.divisors


class TokenWise:
    """Each token on a grid of its own, on the fly."""

    def __init__(self, bits: int, calibration: Calibration) -> None:
        self._bits = bits

    def __call__(self, values: Tensor) -> Tensor:
        return round_tokens(values, self._bits)


class Static:
    """The whole tensor on one grid that calibration fixed; what lies beyond is clipped."""

    def __init__(self, bits: int, calibration: Calibration) -> None:
        assert calibration.span is not None
        self._bits = bits
        self._grid = affine(calibration.span[0], calibration.span[1], bits)

    def __call__(self, values: Tensor) -> Tensor:
        if not values.isfinite().all():
            raise FloatingPointError
        step, zero_point = (part.to(values) for part in self._grid)
        return round_to(values, step, zero_point, self._bits)


TRANSFORMS: dict[str, type[Transform]] = {"": Transform, "h": Rotation, "m": Smoothing}
SCHEMES: dict[bool, type[TokenWise] | type[Static]] = {False: TokenWise, True: Static}


def rounding(option: ActivationOption, ranges: Calibrated | None, layer: str) -> Rounding | None:
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
            "were calibrated; calibrate first (--evaluation) or use an option without t and m"
        )
    calibration = ranges.calibration(option) if ranges is not None and option.needs_ranges else Calibration()
    transform = TRANSFORMS[option.transform](calibration)
    scheme = SCHEMES[option.static](option.bits, calibration)

    def apply(values: Tensor) -> Tensor:
        try:
            rounded = transform.inverse(scheme(transform.forward(values.float())))
        except FloatingPointError:
            raise QsdError(
                f"layer '{layer}': its input holds NaN or infinity, which {option} cannot round; compute in "
                "float32 or give the layers before it more bits"
            ) from None
        limit = torch.finfo(values.dtype).max
        return straight_through(values, rounded.clamp(-limit, limit).to(values.dtype))

    return apply
