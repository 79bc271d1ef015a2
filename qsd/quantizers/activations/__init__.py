"""Rounding of activations: the inputs of layers and the operands of attention products."""

from qsd.quantizers.activations.arithmetic import PROBABILITY_BITS, round_probabilities, round_tokens
from qsd.quantizers.activations.options import (
    FULL_ACTIVATIONS,
    FULL_BITS,
    ActivationOption,
    parse_activations,
)
from qsd.quantizers.activations.ranges import Calibrated, Calibration, Ranges
from qsd.quantizers.activations.schemes import Rounding, rounding
from qsd.quantizers.rotation import rotate

__all__ = [
    "FULL_ACTIVATIONS",
    "FULL_BITS",
    "PROBABILITY_BITS",
    "ActivationOption",
    "Calibrated",
    "Calibration",
    "Ranges",
    "Rounding",
    "parse_activations",
    "rotate",
    "round_probabilities",
    "round_tokens",
    "rounding",
]
