"""The bank: every option of every weight layer of one denoiser, built once and saved."""

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np

from qsd.bank.bank_file import Description, read_bank, writing_bank
from qsd.bank.sizes import average_bits, config_bytes, uniform_configs
from qsd.denoisers.graph import Graph
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers import Option, QuantizedWeight, options_hash
from qsd.quantizers.activations import FULL_ACTIVATIONS, ActivationOption
from qsd.support.errors import QsdError
from qsd.support.hashing import json_hash
from qsd.support.tensors import tensor_hash

FULL_PRECISION = -1
"""In a config, the option index that leaves a layer as it is."""


@dataclasses.dataclass(frozen=True)
class Bank:
    """All options of all weight layers. L layers, O options.

    Attributes:
        denoiser: identity of the denoiser (:func:`qsd.denoisers.pipeline.identity`).
        layers: L weight layers; their order is "bank order".
        graph: the traced graph, whose weight nodes point into ``layers``.
        options: O options.
        weights: the quantized weights, ``weights[layer][option]``; None where a layer cannot take an option.
        relative_errors: float64 [L, O], ||W - W_q|| / ||W||; NaN where a layer cannot take an option.
        provenance: versions and command.
        activation_options: A ways to round the input of a layer; it does not depend on the weights.
    """

    denoiser: dict[str, Any]
    layers: list[WeightLayer]
    graph: Graph
    options: tuple[Option, ...]
    weights: list[list[QuantizedWeight | None]]
    relative_errors: np.ndarray
    provenance: dict[str, Any]
    activation_options: tuple[ActivationOption, ...] = FULL_ACTIVATIONS

    @property
    def options_hash(self) -> str:
        """Short stable hash of the option table."""
        return options_hash(self.options)

    def option_hashes(self) -> dict[str, str]:
        """By option, a hash of its codes and tables in all layers: two banks with equal ones are one bank."""
        hashes = {}
        for index, option in enumerate(self.options):
            parts = {
                f"{layer.name}|{name}": tensor_hash(tensor)
                for layer, row in zip(self.layers, self.weights, strict=True)
                if (weight := row[index]) is not None
                for name, tensor in weight.tensors().items()
            }
            hashes[str(option)] = json_hash(parts)
        return hashes

    @property
    def num_bytes(self) -> np.ndarray:
        """Exact bytes of all that is stored, int64 [L, O]; -1 where a layer cannot take an option."""
        sizes = [[-1 if weight is None else weight.num_bytes for weight in row] for row in self.weights]
        return np.array(sizes, dtype=np.int64)

    @property
    def available(self) -> np.ndarray:
        """Which options each layer can take, bool [L, O]."""
        return self.num_bytes >= 0

    @property
    def num_weights(self) -> np.ndarray:
        """Weights per layer, int64 [L]."""
        return np.array([layer.num_weights for layer in self.layers], dtype=np.int64)

    @property
    def macs(self) -> np.ndarray:
        """Multiply-accumulates per layer in one forward pass of one image, int64 [L]."""
        return np.array([layer.macs for layer in self.layers], dtype=np.int64)

    @property
    def layer_names(self) -> list[str]:
        """Names in bank order."""
        return [layer.name for layer in self.layers]

    def uniform_config(self, option: Option | str) -> np.ndarray:
        """The config that stores every layer by one option, int8 [L]; see
        :func:`qsd.bank.sizes.uniform_configs` for layers that cannot take it.

        Raises:
            QsdError: the bank lacks the option.
        """
        parsed = Option.parse(option) if isinstance(option, str) else option
        if parsed not in self.options:
            raise QsdError(f"the bank has no option {option}; it has {', '.join(map(str, self.options))}")
        return uniform_configs(self.num_bytes, self.num_weights)[self.options.index(parsed)]

    def config_bytes(self, config: np.ndarray) -> np.ndarray:
        """Exact bytes of configs.

        Args:
            config: int8 [..., L] without full-precision entries.

        Returns:
            int64 [...].
        """
        return config_bytes(config, self.num_bytes)

    def average_bits(self, config: np.ndarray) -> np.ndarray:
        """Bits per weight of the weight layers, codebooks and scales included, float64 [...]."""
        return average_bits(self.config_bytes(config), self.num_weights)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        description = Description(
            self.denoiser, self.layers, self.graph, self.options, self.provenance, self.activation_options
        )
        with writing_bank(path, description) as writer:
            for layer, row in zip(self.layers, self.weights, strict=True):
                for weight in row:
                    if weight is not None:
                        writer.write(layer, weight)
            writer.finish(self.relative_errors)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Opens a bank: its tensors are compared with their hashes, but stay in the file until they are used.

        Raises:
            QsdError: the file is missing, truncated, damaged, or no bank.
        """
        description, weights, errors = read_bank(Path(path))
        return cls(
            denoiser=description.denoiser,
            layers=description.layers,
            graph=description.graph,
            options=description.options,
            weights=weights,
            relative_errors=errors,
            provenance=description.provenance,
            activation_options=description.activation_options,
        )
