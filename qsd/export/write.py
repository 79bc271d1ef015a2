"""Writes a config of a denoiser as a folder that diffusers opens."""

import dataclasses
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from qsd.bank import FULL_PRECISION, ActivationTable, Bank
from qsd.bank.carried import Carried
from qsd.configs.schedule import Schedule
from qsd.denoisers.accounting import Holdings, average_bits_of_all, holdings
from qsd.denoisers.components import Denoisers, denoiser_like, denoiser_of, denoisers_of
from qsd.denoisers.identity import check_same_denoiser, identity
from qsd.denoisers.layers import STACK
from qsd.denoisers.pipeline import keep_class_names
from qsd.export.card import CARD_NAME, base_model_of, model_card
from qsd.export.folder import RECIPE_NAME, replacing_export, strip_paths
from qsd.export.formats import format_of
from qsd.export.recipe import note_numbers
from qsd.export.shards import MAX_SHARD_SIZE
from qsd.runtime.layers import check_supported
from qsd.support.errors import QsdError
from qsd.support.progress import Progress
from qsd.support.provenance import provenance as software
from qsd.support.quiet import quiet


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What was written. All sizes in bytes.

    Attributes:
        path: folder of the denoiser, for ``from_pretrained``; of several denoisers that of the first.
        paths: component name -> folder.
        num_bytes: size of the safetensors files: headers, codes, codebooks and unquantized tensors.
        header_bytes: tables of contents, hashes among them.
        code_bytes: packed codes.
        codebook_bytes: codebooks, scales and zero points.
        unquantized_bytes: biases, norms, tables and layers left at full precision.
        full_precision_bytes: all of it unquantized, at 16 bits per number.
        average_bits: of the weights of weight layers.
        average_bits_of_all: of all parameters, those without codes counted at 16 bits.
        holdings: which share of the denoiser the weight layers hold, and what is left out.
        activations: whether inputs of layers are rounded, in simulation.
    """

    path: Path
    paths: dict[str, Path]
    num_bytes: int
    header_bytes: int
    code_bytes: int
    codebook_bytes: int
    unquantized_bytes: int
    full_precision_bytes: int
    average_bits: float
    average_bits_of_all: float
    holdings: Holdings
    activations: bool = False


def export(
    pipe_or_denoiser: Any,
    bank: Bank,
    config: np.ndarray,
    out: str | Path,
    *,
    activations: np.ndarray | Schedule | None = None,
    activation_table: ActivationTable | None = None,
    format: str = "qsd",
    only: str | None = None,
    whole_pipeline: bool = True,
    variant: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    provenance: dict[str, Any] | None = None,
    document: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes the denoiser of a config, whole or not at all, to ``out/transformer``, ``out/unet``, ...

    A bank of several denoisers of a pipeline writes a folder for each. ``out/README.md`` is a model card.

    After ``import qsd``, ``from_pretrained`` of the denoiser's own diffusers class opens that folder. The
    model that it returns computes exactly what the bank-applied denoiser computes in the same dtype: what is
    not quantized is stored in 16 bits where that loses nothing, else as it is.

    That is the format ``qsd``; :data:`qsd.export.formats.FORMATS` has the others, which other programs open.

    Args:
        pipe_or_denoiser: a diffusers pipeline or its denoiser, at full precision (no config applied).
        bank: of this denoiser.
        config: int8 [L], option index per layer, or ``FULL_PRECISION``.
        out: folder; replaced if an earlier export is all that it holds.
        activations: int8 [L], the activation option of each layer, or such a vector by range of sampling
            steps. Whoever opens the export gets a denoiser that rounds in simulation: nothing is faster.
        activation_table: of :func:`qsd.evaluation.calibration.calibrate`, for options that need ranges.
        format: name of the format.
        only: of the denoisers of a pipeline, the name of the one to quantize; others stay at full precision.
        whole_pipeline: given a pipeline, also save its other components, so that
            ``DiffusionPipeline.from_pretrained(out)`` opens the quantized pipeline.
        variant: part of the names of the denoiser's files, for ``from_pretrained(variant=...)``.
        max_shard_size: of one safetensors file, in bytes or as "5GB"; larger exports get several.
        provenance: recorded in ``config.json``; by default the versions of the software.
        document: of the config, whose measured and predicted numbers the model card tells.
        progress: called once per component.

    Raises:
        QsdError: the bank is another denoiser's, the config does not fit it, the format cannot hold it
            exactly or has no variants and shards, or ``out`` holds other files.
    """
    pipe: Any = pipe_or_denoiser if isinstance(pipe_or_denoiser, DiffusionPipeline) else None
    denoiser = denoiser_like(pipe, bank.denoiser) if pipe else pipe_or_denoiser
    check_same_denoiser(identity(denoiser), bank.denoiser, "bank")
    config = _checked(config, bank, denoiser)
    carried = Carried.of(bank, activations)
    table = activation_table or ActivationTable(bank.activation_options)
    if only is not None:
        prefix = f"{only}." if isinstance(denoiser, Denoisers) else ""
        carried, table = carried and carried.part(prefix), _of_layers(table, prefix)
        denoiser, bank, config = _only(pipe, denoiser, bank, config, only)
    chosen = format_of(format)
    if carried is not None and not chosen.activations:
        raise QsdError(
            f"format {format}: cannot say how activations are rounded; export as qsd, or without them"
        )
    if carried is not None and carried.ranges and isinstance(denoiser, Denoisers):
        raise QsdError("schedule: several denoisers share the steps; export one activation vector instead")
    _check_files(format, chosen.shards, variant, max_shard_size)
    whole_pipeline = whole_pipeline and chosen.whole
    provenance = software() if provenance is None else provenance
    parts = _named_parts(pipe, denoiser)
    components = _other_components(pipe, parts) if pipe and whole_pipeline else {}
    out = Path(out).resolve()
    written: list[dict[str, int]] = []
    with replacing_export(out) as folder:
        for name, part in parts.items():
            prefix = f"{name}." if isinstance(denoiser, Denoisers) else ""
            own_bank, own_config = _of_part(bank, config, prefix)
            settings = {"variant": variant, "max_shard_size": max_shard_size}
            more: dict[str, Any] = {}
            if carried is not None:
                more = {"carried": carried.part(prefix), "table": _of_layers(table, prefix)}
            written.append(
                chosen.write(folder / name, part, own_bank, own_config, provenance, settings, **more)
            )
            note_numbers(folder / name / RECIPE_NAME, document)
        for done, (key, component) in enumerate(components.items(), start=1):
            if progress:
                progress(done, len(components) + 1, key)
            with quiet():
                component.save_pretrained(folder / key)
        if pipe and whole_pipeline:
            keep_class_names(pipe)
            pipe.save_config(folder)
        strip_paths(folder)
        held = holdings(denoiser, bank.layers)
        weight_bytes = _weight_bytes(bank, config)
        result = ExportResult(
            path=out / next(iter(parts)),
            paths={name: out / name for name in parts},
            average_bits=8 * weight_bytes / int(bank.num_weights.sum()),
            average_bits_of_all=average_bits_of_all(weight_bytes, held.num_weights, held.num_parameters),
            holdings=held,
            activations=carried is not None,
            **{key: sum(part[key] for part in written) for key in written[0]},
        )
        card = model_card(
            bank,
            config,
            _card_sizes(result),
            title=f"Quantized {', '.join(type(part).__name__ for part in parts.values())}",
            about=chosen.about,
            loading=chosen.loading(parts, type(pipe).__name__ if components else None, variant),
            document=document,
            provenance=provenance,
            base_model=base_model_of(pipe_or_denoiser),
            carried=carried,
        )
        (folder / CARD_NAME).write_text(card, encoding="utf-8")
    if progress:
        progress(len(components) + 1, len(components) + 1, ", ".join(parts))
    return result


def _check_files(format: str, shards: bool, variant: str | None, max_shard_size: int | str) -> None:
    """Refuses names and sizes of files that the format cannot have."""
    if variant is not None and not re.fullmatch(r"[\w-]+", variant):
        raise QsdError(f"variant {variant!r}: is a part of file names; use letters, digits, _ and -")
    if not shards and (variant is not None or max_shard_size != MAX_SHARD_SIZE):
        raise QsdError(f"format {format}: writes one file, without variants or shards; leave these out")


def _card_sizes(result: ExportResult) -> dict[str, float]:
    return {
        "bits per weight of the weight layers": result.average_bits,
        "bits per parameter of all": result.average_bits_of_all,
        "bytes": result.num_bytes,
        "bytes at 16 bits": result.full_precision_bytes,
    }


def _named_parts(pipe: Any, denoiser: Any) -> dict[str, Any]:
    """Folder name -> denoiser to write there."""
    if isinstance(denoiser, Denoisers):
        return dict(denoiser.named_children())
    if pipe is None:
        return {_guess_name(denoiser): denoiser}
    return {name: part for name, part in denoisers_of(pipe).items() if part is denoiser}


def _only(
    pipe: Any, denoiser: Any, bank: Bank, config: np.ndarray, name: str
) -> tuple[Any, Bank, np.ndarray]:
    """One of several denoisers with its part of bank and config.

    Raises:
        QsdError: the bank is not of that denoiser.
    """
    if pipe is None:
        raise QsdError(f"only {name!r}: give a pipeline, whose denoisers have names")
    part = denoiser_of(pipe, name)
    if isinstance(denoiser, Denoisers):
        own_bank, own_config = _of_part(bank, config, f"{name}.")
        return part, dataclasses.replace(own_bank, denoiser=identity(part)), own_config
    if part is not denoiser:
        raise QsdError(f"the bank is not of {name!r}; build one with `qsd bank --denoiser {name}`")
    return denoiser, bank, config


def _of_part(bank: Bank, config: np.ndarray, prefix: str) -> tuple[Bank, np.ndarray]:
    """The bank and the config of one of several denoisers, its layers named as it names them."""
    if not prefix:
        return bank, config
    chosen = [index for index, layer in enumerate(bank.layers) if layer.name.startswith(prefix)]
    layers = [
        dataclasses.replace(
            bank.layers[index],
            name=bank.layers[index].name.removeprefix(prefix),
            module=bank.layers[index].module.removeprefix(prefix),
            tied=tuple(path.removeprefix(prefix) for path in bank.layers[index].tied),
        )
        for index in chosen
    ]
    weights = [bank.weights[index] for index in chosen]
    errors = bank.relative_errors[chosen]
    return dataclasses.replace(bank, layers=layers, weights=weights, relative_errors=errors), config[chosen]


def _of_layers(table: ActivationTable, prefix: str) -> ActivationTable:
    """The table of one of several denoisers."""
    own = {name.removeprefix(prefix): of for name, of in table.ranges.items() if name.startswith(prefix)}
    return ActivationTable(table.options, own)


def _weight_bytes(bank: Bank, config: np.ndarray) -> int:
    """Bytes of the weight layers, those at full precision at 16 bits."""
    stored = np.where(
        config == FULL_PRECISION, 2 * bank.num_weights, bank.num_bytes[np.arange(len(config)), config]
    )
    return int(stored.sum())


def _other_components(pipe: Any, written: Container[str]) -> dict[str, Any]:
    """What else the pipeline saves."""
    return {
        key: part
        for key, part in pipe.components.items()
        if key not in written and hasattr(part, "save_pretrained")
    }


def _checked(config: np.ndarray, bank: Bank, denoiser: Any) -> np.ndarray:
    """The config as int8 [L], if the bank has what it asks for and each weight is stored in one way."""
    config = np.asarray(config)
    layers, options = len(bank.layers), len(bank.options)
    if config.shape != (layers,):
        raise QsdError(
            f"config: has shape {config.shape}, not [{layers}]; use a config of this bank's layers"
        )
    if config.min() < FULL_PRECISION or config.max() >= options:
        raise QsdError(
            f"config: has options {config.min()} to {config.max()}, and the bank has 0 to {options - 1}; "
            "use a config of this bank's option table"
        )
    left_out = config == FULL_PRECISION
    if not (left_out | bank.available[np.arange(layers), config]).all():
        raise QsdError("config: a layer has an option that it cannot take; use a config of this bank")
    whole = {layer.module: full for layer, full in zip(bank.layers, left_out, strict=True)}
    for layer, full in zip(bank.layers, left_out, strict=True):
        if full != whole[layer.module]:
            raise QsdError(
                f"config: only a part of the weight of '{layer.module}' is quantized, so '{layer.name}' "
                "cannot be stored; give an option to all of its segments or to none"
            )
        if not full and layer.kind != STACK:
            check_supported(denoiser.get_submodule(layer.module), layer.name)
    return config.astype(np.int8)


def _guess_name(denoiser: Any) -> str:
    """The name that pipelines give a denoiser of this class."""
    return "unet" if "UNet" in type(denoiser).__name__ else "transformer"
