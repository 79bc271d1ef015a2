"""Builds a bank: in memory, or straight into its file."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qsd.bank.bank import Bank
from qsd.bank.bank_file import Description, writing_bank
from qsd.denoisers.identity import identity
from qsd.denoisers.layers import WeightLayer, matrix_of, weight_at
from qsd.denoisers.tracing import Traced, trace
from qsd.quantizers import Option, QuantizedWeight, quantize_all, relative_error
from qsd.quantizers.activations import FULL_ACTIVATIONS, ActivationOption
from qsd.support.errors import QsdError
from qsd.support.hashing import verification
from qsd.support.progress import Progress

ReadWeight = Callable[[str], torch.Tensor]
"""The weight of a module by the module's path."""
_NONSENSE = 10.0  # times the norm of the weight


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
    weights: list[list[QuantizedWeight | None]] = []
    errors: list[list[float]] = []
    read = lambda module: module_weight(denoiser, module)  # noqa: E731
    for _, row, row_errors in _quantized(read, traced.layers, options, threads, progress):
        weights.append(row)
        errors.append(row_errors)
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


def write_bank(
    path: str | Path,
    read: ReadWeight,
    denoiser: dict[str, Any],
    options: Sequence[Option],
    *,
    traced: Traced,
    activations: Sequence[ActivationOption] = FULL_ACTIVATIONS,
    threads: int = 1,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Bank:
    """Quantizes like :func:`build_bank`, straight into a file: few layers are in memory at a time.

    Args:
        path: destination.
        read: gives the weight of a module, of which nothing is kept.
        denoiser: its identity.
        options: the option table.
        traced: weight layers and graph.
        activations: as for :func:`build_bank`.
        threads: likewise.
        provenance: likewise.
        progress: likewise.

    Returns:
        The bank, opened from the file.

    Raises:
        QsdError: as :func:`build_bank`; no file is written then.
    """
    options = tuple(options)
    description = Description(
        denoiser, traced.layers, traced.graph, options, provenance or {}, tuple(activations)
    )
    check_options(options, traced.layers)
    errors: list[list[float]] = []
    with writing_bank(path, description) as writer:
        for layer, row, row_errors in _quantized(read, traced.layers, options, threads, progress):
            for weight in row:
                if weight is not None:
                    writer.write(layer, weight)
            errors.append(row_errors)
        writer.finish(np.array(errors, dtype=np.float64))
    with verification(False):  # it was hashed while it was written
        return Bank.load(path)


def _quantized(
    read: ReadWeight,
    layers: Sequence[WeightLayer],
    options: Sequence[Option],
    threads: int,
    progress: Progress | None,
) -> Iterator[tuple[WeightLayer, list[QuantizedWeight | None], list[float]]]:
    """Each layer with its quantized forms and their errors, NaN where it cannot take an option."""
    waiting: deque[torch.Tensor] = deque()

    def inputs() -> Iterator[tuple[str, torch.Tensor]]:
        for layer in layers:
            waiting.append(part_of(read(layer.module), layer))
            yield layer.name, waiting[-1]

    for done, (layer, (_, forms)) in enumerate(
        zip(layers, quantize_all(inputs(), options, threads=threads), strict=True)
    ):
        weight = waiting.popleft()
        row = [forms.get(option) for option in options]
        yield layer, row, [np.nan if form is None else _error_of(layer, weight, form) for form in row]
        if progress:
            progress(done + 1, len(layers), layer.name)


def _error_of(layer: WeightLayer, weight: torch.Tensor, form: QuantizedWeight) -> float:
    """The relative error, which is refused where an option does not have the range of the weight."""
    error = relative_error(weight, form)
    if not error < _NONSENSE:
        raise QsdError(
            f"layer '{layer.name}': its values, up to {weight.abs().max().item():.2g} in size, are beyond "
            f"the range of option {form.option}; leave the option out"
        )
    return error


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
    """The weight of a module of the denoiser, or a stack of experts."""
    return weight_at(denoiser, module)


def layer_weight(denoiser: nn.Module, layer: WeightLayer) -> torch.Tensor:
    """The full-precision weight of a layer: the module's weight, or its segment, in the layer's shape."""
    return part_of(module_weight(denoiser, layer.module), layer)


def part_of(weight: torch.Tensor, layer: WeightLayer) -> torch.Tensor:
    """Of the weight of a module, what a layer holds."""
    weight = matrix_of(weight.detach(), layer.kind)
    return weight if layer.segment is None else weight[:, layer.segment[0] : layer.segment[1]]
