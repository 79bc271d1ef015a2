"""The bank: every option of every weight layer of one denoiser, built once and saved."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from qsd.bank.sizes import average_bits, config_bytes, uniform_configs
from qsd.denoisers.checks import check_layers
from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.identity import identity
from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.tracing import Traced, trace
from qsd.quantizers import Option, QuantizedWeight, options_hash, quantize_all, relative_error
from qsd.quantizers.activations import FULL_ACTIVATIONS, ActivationOption, parse_activations
from qsd.quantizers.options import paper_form
from qsd.support.documents import Schema, check_schema
from qsd.support.errors import QsdError, first_line
from qsd.support.hashing import json_hash
from qsd.support.progress import Progress
from qsd.support.tensors import all_finite, open_tensors, save_tensors, tensor_hash

FORMAT = "qsd-bank"
VERSION = 2
_PAPER_VERSION = 1  # all options were the paper's forms, under their plain names
_REMEDY = "build it again with `qsd bank`"
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
        tensors = {
            f"{layer.name}|{option}|{key}": tensor.contiguous()
            for layer, row in zip(self.layers, self.weights, strict=True)
            for option, weight in zip(self.options, row, strict=True)
            if weight is not None
            for key, tensor in weight.tensors().items()
        }
        tensors["relative_errors"] = torch.from_numpy(self.relative_errors)
        tensors["edge_index"] = torch.from_numpy(self.graph.edge_index)
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "denoiser": self.denoiser,
            "layers": [layer.to_json() for layer in self.layers],
            "graph": self.graph.to_json(),
            "options": [str(option) for option in self.options],
            "provenance": self.provenance,
            "activation_options": [str(option) for option in self.activation_options],
        }
        save_tensors(path, tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a bank.

        Raises:
            QsdError: the file is missing, truncated, damaged, or no bank.
        """
        path = Path(path)
        if not path.is_file():
            raise QsdError(f"{path}: no such bank; build one with `qsd bank --out {path}`")
        with open_tensors(path, {FORMAT: VERSION}, _REMEDY) as file:
            if file.meta["version"] not in (_PAPER_VERSION, VERSION):
                raise QsdError(f"{path}: not a qsd bank of version {VERSION}; {_REMEDY}")
            meta = check_schema(_Meta, file.meta, path, _REMEDY)
            tensors = {name: file.tensor(name) for name in file.names}
        try:
            return cls._restored(meta, tensors)
        except (KeyError, ValueError) as error:
            raise QsdError(f"{path}: damaged ({first_line(error)}); {_REMEDY}") from error

    @classmethod
    def _restored(cls, meta: "_Meta", tensors: dict[str, torch.Tensor]) -> Self:
        spell = paper_form if meta.version == _PAPER_VERSION else str
        options = tuple(Option.parse(spell(text)) for text in meta.options)
        graph = Graph.from_json(
            [dataclasses.asdict(node) for node in meta.graph], tensors.pop("edge_index").numpy()
        )
        check_layers(meta.layers, graph)
        errors = tensors.pop("relative_errors").numpy()
        grouped: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if not all_finite(tensor):
                raise ValueError(f"tensor '{key}' is not finite")
            owner, _, name = key.rpartition("|")
            grouped.setdefault(owner, {})[name] = tensor
        weights = [
            [
                QuantizedWeight.from_tensors(option, layer.shape, grouped.get(f"{layer.name}|{text}", {}))
                if option.accepts(layer.shape)
                else None
                for option, text in zip(options, meta.options, strict=True)
            ]
            for layer in meta.layers
        ]
        missing = np.array([[weight is None for weight in row] for row in weights])
        if errors.shape != missing.shape or not (np.isfinite(errors) | missing).all():
            raise ValueError("relative errors that do not fit the option table")
        return cls(
            denoiser=meta.denoiser,
            layers=meta.layers,
            graph=graph,
            options=options,
            weights=weights,
            relative_errors=errors,
            provenance=meta.provenance,
            activation_options=parse_activations(meta.activation_options),
        )


class _Meta(Schema):
    format: str
    version: int
    denoiser: dict[str, Any]
    layers: Annotated[list[WeightLayer], Field(min_length=1)]
    graph: list[Node]
    options: Annotated[list[str], Field(min_length=1, max_length=127)]
    provenance: dict[str, Any]
    activation_options: Annotated[tuple[str, ...], Field(min_length=1, max_length=127)] = ("16",)
    hashes: dict[str, str] = Field(default_factory=dict)
    hash: str | None = None


def build_bank(
    denoiser: nn.Module,
    options: Sequence[Option],
    *,
    traced: Traced | None = None,
    activations: Sequence[ActivationOption] = FULL_ACTIVATIONS,
    threads: int = 1,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
    partial: bool = False,
) -> Bank:
    """Quantizes every weight layer of a denoiser by every option.

    Args:
        denoiser: at full precision.
        options: the option table.
        traced: its weight layers and graph; by default it is traced with inputs guessed from its config.
        activations: the activation options that configs choose from.
        threads: layers quantized at a time.
        provenance: recorded in the bank.
        progress: called once per layer.
        partial: layers may be left without any of the options, which are added to others.

    Raises:
        QsdError: a weight holds NaN or infinity, the denoiser cannot be traced, no layer can take an option,
            or a layer can take none.
    """
    traced = trace(denoiser) if traced is None else traced
    options = tuple(options)
    check_options(options, traced.layers, partial=partial)
    inputs = ((layer.name, layer_weight(denoiser, layer)) for layer in traced.layers)
    outputs = quantize_all(inputs, options, threads=threads)
    weights: list[list[QuantizedWeight | None]] = []
    errors: list[list[float]] = []
    for done, (layer, (_, quantized)) in enumerate(zip(traced.layers, outputs, strict=True)):
        weight = layer_weight(denoiser, layer)
        weights.append([quantized.get(option) for option in options])
        errors.append([np.nan if form is None else relative_error(weight, form) for form in weights[-1]])
        if progress:
            progress(done + 1, len(traced.layers), layer.name)
    return Bank(
        denoiser=identity(denoiser),
        layers=traced.layers,
        graph=traced.graph,
        options=options,
        weights=weights,
        relative_errors=np.array(errors, dtype=np.float64),
        provenance=provenance or {},
        activation_options=tuple(activations),
    )


def check_options(options: Sequence[Option], layers: Sequence[WeightLayer], *, partial: bool = False) -> None:
    """Refuses a table that does not fit a denoiser; a partial one may leave layers without an option.

    Raises:
        QsdError: a package is missing, no layer can take an option, or a layer can take none.
    """
    for option in options:
        if option.missing:
            raise QsdError(f"option {option} needs a package that is not installed: {option.missing}")
        if not any(option.accepts(layer.shape) for layer in layers):
            raise QsdError(
                f"option {option} fits none of the {len(layers)} weight layers (their shapes do not divide "
                "into its groups or blocks); leave it out"
            )
    for layer in layers:
        if not partial and not any(option.accepts(layer.shape) for option in options):
            raise QsdError(
                f"layer '{layer.name}' of shape {tuple(layer.shape)} can take none of "
                f"{', '.join(map(str, options))}; add an option without groups, or keep"
            )


def module_weight(denoiser: nn.Module, module: str) -> nn.Parameter:
    """The weight of a module of the denoiser."""
    return cast(nn.Parameter, denoiser.get_submodule(module).weight)


def layer_weight(denoiser: nn.Module, layer: WeightLayer) -> torch.Tensor:
    """The full-precision weight of a layer: the module's weight, or its segment of input channels."""
    weight = module_weight(denoiser, layer.module).detach()
    return weight if layer.segment is None else weight[:, layer.segment[0] : layer.segment[1]]
