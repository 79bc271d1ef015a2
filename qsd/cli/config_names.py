"""How people name a config on the command line."""

from pathlib import Path

import numpy as np

from qsd.bank import Bank
from qsd.configs.document import load_config
from qsd.quantizers import Option


def read_config(bank: Bank, name: str) -> np.ndarray:
    """A config file, or an option such as ``uaq-4`` for the uniform config.

    Args:
        bank: whose layers and options the config must have.
        name: path of a config file, or text of an option.

    Returns:
        int8 [L].

    Raises:
        QsdError: no such file, or a config of another denoiser, option table or layer set.
    """
    names = [str(option) for option in bank.options]
    if name in names and not Path(name).exists():
        return bank.uniform_config(Option.parse(name))
    return load_config(name, bank.layer_names, names, bank.denoiser)
