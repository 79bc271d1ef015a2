"""Every option of every weight layer of one denoiser, built once, saved, applied in place; exact sizes."""

from qsd.bank.activations import ActivationTable
from qsd.bank.apply import Applier
from qsd.bank.bank import FULL_PRECISION, Bank
from qsd.bank.building import build_bank, layer_weight, module_weight, write_bank
from qsd.bank.sizes import average_bits, config_bytes

__all__ = [
    "FULL_PRECISION",
    "ActivationTable",
    "Applier",
    "Bank",
    "average_bits",
    "build_bank",
    "config_bytes",
    "layer_weight",
    "module_weight",
    "write_bank",
]
