"""The file of a bank: written weight by weight, opened without reading it into memory."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from qsd.denoisers.checks import check_layers
from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers import Option, QuantizedWeight
from qsd.quantizers.activations import ActivationOption, parse_activations
from qsd.quantizers.options import paper_form
from qsd.support.documents import Schema, check_schema
from qsd.support.errors import QsdError, first_line
from qsd.support.hashing import verifying
from qsd.support.tensor_writer import Planned, TensorWriter, writing_tensors
from qsd.support.tensors import open_tensors

FORMAT = "qsd-bank"
VERSION = 2
_PAPER_VERSION = 1  # all options were the paper's forms, under their plain names
_REMEDY = "build it again with `qsd bank`"
_ERRORS, _EDGES = "relative_errors", "edge_index"

Weights = list[list[QuantizedWeight | None]]


class Description(NamedTuple):
    """Everything of a bank but its tensors; the fields are those of :class:`qsd.bank.Bank`."""

    denoiser: dict[str, Any]
    layers: list[WeightLayer]
    graph: Graph
    options: tuple[Option, ...]
    provenance: dict[str, Any]
    activation_options: tuple[ActivationOption, ...]


class BankWriter:
    """A bank in the making; see :func:`writing_bank`."""

    def __init__(self, writer: TensorWriter) -> None:
        self._writer = writer

    def write(self, layer: WeightLayer, weight: QuantizedWeight) -> None:
        """Writes one option of a layer."""
        for key, tensor in weight.tensors().items():
            self._writer.write(_name(layer, weight.option, key), tensor)

    def finish(self, relative_errors: np.ndarray) -> None:
        """Writes the errors, float64 [L, O]."""
        self._writer.write(_ERRORS, torch.from_numpy(relative_errors))


@contextlib.contextmanager
def writing_bank(path: str | Path, description: Description) -> Iterator[BankWriter]:
    """Begins a bank, whole or not at all: inside the block every option that a layer can take is written.

    Args:
        path: destination.
        description: of the bank.
    """
    edges = torch.from_numpy(description.graph.edge_index)
    layers, options = description.layers, description.options
    planned = {
        _name(layer, option, key): Planned(tuple(stored.shape), tuple(stored.dtypes))
        for layer in layers
        for option in options
        if option.accepts(layer.shape)
        for key, stored in option.layout(layer.shape).items()
    }
    planned[_ERRORS] = Planned((len(layers), len(options)), (torch.float64,))
    planned[_EDGES] = Planned(tuple(edges.shape), (edges.dtype,))
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "denoiser": description.denoiser,
        "layers": [layer.to_json() for layer in layers],
        "graph": description.graph.to_json(),
        "options": [str(option) for option in options],
        "provenance": description.provenance,
        "activation_options": [str(option) for option in description.activation_options],
    }
    with writing_tensors(path, planned, meta) as writer:
        writer.write(_EDGES, edges)
        yield BankWriter(writer)


def read_bank(path: Path) -> tuple[Description, Weights, np.ndarray]:
    """Opens a bank.

    Returns:
        (description, quantized weights ``[layer][option]`` whose tensors are mapped from the file, relative
        errors float64 [L, O]).

    Raises:
        QsdError: the file is missing, truncated, damaged, or no bank.
    """
    if not path.is_file():
        raise QsdError(f"{path}: no such bank; build one with `qsd bank --out {path}`")
    with open_tensors(path, {FORMAT: VERSION}, _REMEDY) as file:
        if file.meta["version"] not in (_PAPER_VERSION, VERSION):
            raise QsdError(f"{path}: not a qsd bank of version {VERSION}; {_REMEDY}")
        meta = check_schema(_Meta, file.meta, path, _REMEDY)
        if verifying():
            file.verify(holes=(_ERRORS,))
        tensors = {name: file.mapped(name) for name in file.names}
    try:
        return _restored(meta, tensors)
    except (KeyError, ValueError) as error:
        raise QsdError(f"{path}: damaged ({first_line(error)}); {_REMEDY}") from error


def _name(layer: WeightLayer, option: Option | str, key: str) -> str:
    return f"{layer.name}|{option}|{key}"


def _restored(meta: "_Meta", tensors: dict[str, torch.Tensor]) -> tuple[Description, Weights, np.ndarray]:
    spell = paper_form if meta.version == _PAPER_VERSION else str
    options = tuple(Option.parse(spell(text)) for text in meta.options)
    graph = Graph.from_json(
        [dataclasses.asdict(node) for node in meta.graph], tensors.pop(_EDGES).clone().numpy()
    )
    check_layers(meta.layers, graph)
    errors = tensors.pop(_ERRORS).clone().numpy()
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("|")
        grouped.setdefault(owner, {})[key] = tensor
    weights: Weights = [_row(layer, options, meta.options, grouped) for layer in meta.layers]
    missing = np.array([[weight is None for weight in row] for row in weights])
    if errors.shape != missing.shape or not (np.isfinite(errors) | missing).all():
        raise ValueError("relative errors that do not fit the option table")
    description = Description(
        meta.denoiser,
        meta.layers,
        graph,
        options,
        meta.provenance,
        parse_activations(meta.activation_options),
    )
    return description, weights, errors


def _row(
    layer: WeightLayer,
    options: Sequence[Option],
    texts: Sequence[str],
    grouped: dict[str, dict[str, torch.Tensor]],
) -> list[QuantizedWeight | None]:
    return [
        QuantizedWeight.from_tensors(option, layer.shape, grouped.get(f"{layer.name}|{text}", {}))
        if option.accepts(layer.shape)
        else None
        for option, text in zip(options, texts, strict=True)
    ]


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
