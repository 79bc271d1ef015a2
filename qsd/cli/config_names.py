"""How people name a config on the command line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsd.bank import Bank
from qsd.configs.activations import load_activations, uniform_activations
from qsd.configs.document import load_config
from qsd.configs.schedule import Schedule, load_schedule
from qsd.quantizers import Option


def read_configs(bank: Bank, names: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray | Schedule | None]]:
    """Configs and their activations, of names such as ``best.json``, ``uaq-4@8`` or ``best.json@steps.json``.

    What follows the @ is an activation option for all layers or a schedule file, and takes the place of the
    activations that a config file names.

    Args:
        bank: whose layers and options they must have.
        names: n names.

    Returns:
        int8 [n, L], and n activation vectors or schedules; None is full precision.

    Raises:
        QsdError: as :func:`read_config`; activation options that the bank lacks, or of another layer set.
    """
    configs, activations = [], []
    for name in names:
        own, marked, rounded = name.rpartition("@")
        if not marked or Path(name).exists():
            own, rounded = name, ""
        configs.append(read_config(bank, own))
        activations.append(_activations(bank, own, rounded))
    return np.stack(configs), activations


def _activations(bank: Bank, config: str, name: str) -> np.ndarray | Schedule | None:
    texts = [str(option) for option in bank.activation_options]
    if name.endswith(".json"):
        return load_schedule(name, bank.layer_names, texts, bank.denoiser)
    if name:
        return uniform_activations(bank.activation_options, bank.macs, name)
    if Path(config).exists():
        return load_activations(config, bank.layer_names, bank.activation_options)
    return None


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
