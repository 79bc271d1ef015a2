"""Points the layers of a denoiser at tensors of a bank, and back."""

from typing import Self

import numpy as np
import torch
from torch import nn

from qsd.bank.activations import ActivationHooks, ActivationTable, attention_layers
from qsd.bank.bank import FULL_PRECISION, Bank
from qsd.bank.building import module_weight, part_of
from qsd.configs.schedule import Schedule
from qsd.denoisers.identity import check_same_denoiser, identity
from qsd.support.errors import QsdError


class Applier:
    """Points the layers of a denoiser at tensors of a bank, and back.

    Only the weights of the active config are held, dequantized, beside those of full precision; only layers
    whose option changed are touched. As a context manager it restores full precision on leaving.

    Attributes:
        bank: where the tensors come from.
        denoiser: what they are applied to.
        table: the activation options.
    """

    def __init__(
        self,
        bank: Bank,
        denoiser: nn.Module,
        activations: ActivationTable = ActivationTable(),  # noqa: B008 (frozen)
    ) -> None:
        """Remembers full precision.

        Args:
            bank: where the tensors come from.
            denoiser: what they are applied to.
            activations: the table that activation vectors point into.

        Raises:
            QsdError: the bank was made for another denoiser.
        """
        check_same_denoiser(identity(denoiser), bank.denoiser, "bank")
        self.bank = bank
        self.denoiser = denoiser
        self._by_module: dict[str, list[int]] = {}
        for index, layer in enumerate(bank.layers):
            self._by_module.setdefault(layer.module, []).append(index)
        self._full = {name: module_weight(denoiser, name).data for name in self._by_module}
        self._trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        self._current = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
        self.table = activations
        attention = attention_layers(bank.layers, bank.graph)
        self._hooks = ActivationHooks(denoiser, bank.layers, attention, activations)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def apply(self, config: np.ndarray, activations: np.ndarray | Schedule | None = None) -> None:
        """Makes the denoiser the one of a config.

        Args:
            config: int8 [L], option index per layer, or ``FULL_PRECISION``.
            activations: int8 [L], index of the activation option of each layer, or such a vector by range of
                sampling steps; None leaves activations as they are in full precision.

        Raises:
            QsdError: a layer cannot take its option, or activation options of another layer set or table.
        """
        self._hooks.apply(activations)
        config = np.asarray(config, dtype=np.int8)
        for module, indices in self._by_module.items():
            if (config[indices] == self._current[indices]).all():
                continue
            parts = [self._tensor(index, int(config[index])) for index in indices]
            weight = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            module_weight(self.denoiser, module).data = weight.view(self._full[module].shape)
        for parameter in self._trained:  # for torch adds in another order where a weight wants a gradient
            parameter.requires_grad_(False)
        self._current = config.copy()

    def check_drawn(self) -> None:
        """Says whether what was drawn since `apply` took all steps of its schedule of activations, if any.

        Raises:
            QsdError: it took fewer.
        """
        self._hooks.check_drawn()

    def restore(self) -> None:
        """Brings full precision back, bit for bit: the very tensors the denoiser came with, and no hook."""
        self._hooks.apply(None)
        for module, weight in self._full.items():
            module_weight(self.denoiser, module).data = weight.view(self._full[module].shape)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        self._current[:] = FULL_PRECISION

    def _tensor(self, index: int, option: int) -> torch.Tensor:
        layer = self.bank.layers[index]
        full = self._full[layer.module]
        if option == FULL_PRECISION:
            return part_of(full, layer)
        stored = self.bank.weights[index][option]
        if stored is None:
            raise QsdError(
                f"layer '{layer.name}' cannot take {self.bank.options[option]}; use a config of this bank"
            )
        return stored.dequantize(full.dtype).to(full.device)
