"""Activation options that an exported denoiser carries: in its config.json, and in tensors of its file."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from qsd.bank.activations import ActivationHooks, ActivationTable, attention_layers
from qsd.bank.bank import Bank
from qsd.bank.holder import HOLDER, Holder, Stored, buffer_name
from qsd.configs.document import layers_from_json, layers_to_json
from qsd.configs.schedule import Schedule, check_ranges
from qsd.denoisers.layers import STACK
from qsd.quantizers.activations import ActivationOption, parse_activations, rounding
from qsd.support.documents import Schema, check_schema
from qsd.support.errors import QsdError

_ATTRIBUTE = "_qsd_activations"
_SOURCE = "config.json: quantization_config.activations"
_REMEDY = "export again"


@dataclasses.dataclass(frozen=True)
class CarriedLayer:
    """A layer whose input may be rounded; see :class:`qsd.denoisers.WeightLayer`."""

    name: str
    module: str
    segment: tuple[int, int] | None = None
    tied: tuple[str, ...] = ()
    kind: str = ""
    macs: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Carried:
    """Activation options of the layers of one denoiser, by range of steps. L layers, G groups, A options.

    Attributes:
        layers: L layers.
        attention: attention module -> "q", "k", "v" -> positions of the layers that make them.
        options: A options.
        vectors: int8 [G, L].
        ranges: G ranges of steps; None where the one group is for all steps.
    """

    layers: tuple[CarriedLayer, ...]
    attention: dict[str, dict[str, list[int]]]
    options: tuple[ActivationOption, ...]
    vectors: np.ndarray
    ranges: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def of(cls, bank: Bank, activations: np.ndarray | Schedule | None) -> Self | None:
        """Those of a bank's denoiser; None where all inputs stay as they are."""
        if activations is None:
            return None
        ranges = activations.ranges if isinstance(activations, Schedule) else None
        vectors = (
            activations.activations if isinstance(activations, Schedule) else np.asarray(activations)[None]
        )
        table = ActivationTable(bank.activation_options)
        vectors = np.stack([table.checked(vector, len(bank.layers)) for vector in vectors])
        if not vectors.any():
            return None
        layers = tuple(
            CarriedLayer(layer.name, layer.module, layer.segment, layer.tied, layer.kind, layer.macs)
            for layer in bank.layers
        )
        attention = attention_layers(bank.layers, bank.graph)
        whole = cls(layers, attention, bank.activation_options, vectors, ranges)
        return whole._of([index for index, layer in enumerate(layers) if layer.kind != STACK])

    def part(self, prefix: str) -> Self:
        """Those of one of several denoisers, its layers named as it names them."""
        own = self._of([index for index, layer in enumerate(self.layers) if layer.name.startswith(prefix)])
        layers = tuple(
            dataclasses.replace(
                layer,
                name=layer.name.removeprefix(prefix),
                module=layer.module.removeprefix(prefix),
                tied=tuple(path.removeprefix(prefix) for path in layer.tied),
            )
            for layer in own.layers
        )
        attention = {owner.removeprefix(prefix): makers for owner, makers in own.attention.items()}
        return dataclasses.replace(own, layers=layers, attention=attention)

    def _of(self, chosen: Sequence[int]) -> Self:
        """Those of some layers, by position."""
        position = {index: place for place, index in enumerate(chosen)}
        attention = {
            owner: {
                letter: [position[index] for index in makers if index in position]
                for letter, makers in of.items()
            }
            for owner, of in self.attention.items()
            if any(index in position for makers in of.values() for index in makers)
        }
        layers = tuple(self.layers[index] for index in chosen)
        return dataclasses.replace(
            self, layers=layers, attention=attention, vectors=self.vectors[:, list(chosen)]
        )

    def to_json(self) -> dict[str, Any]:
        """The entry of a manifest."""
        names, texts = [layer.name for layer in self.layers], [str(option) for option in self.options]
        return {
            "simulated": True,
            "layers": {layer.name: _short(layer) for layer in self.layers},
            "attention": {
                owner: {letter: [names[index] for index in makers] for letter, makers in of.items()}
                for owner, of in self.attention.items()
            },
            "groups": [
                {
                    "steps": None if steps is None else list(steps),
                    "options": layers_to_json(row, names, texts),
                }
                for steps, row in zip(self.ranges or (None,), self.vectors, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Self:
        """Reads what :meth:`to_json` wrote.

        Raises:
            QsdError: something in it does not fit.
        """
        document = check_schema(_Entry, entry, _SOURCE, _REMEDY)
        layers = tuple(
            CarriedLayer(
                name,
                place.module or name,
                None if place.segment is None else (place.segment[0], place.segment[1]),
                tuple(place.tied),
            )
            for name, place in document.layers.items()
        )
        names = [layer.name for layer in layers]
        used = dict.fromkeys(text for group in document.groups for text in group.options.values())
        try:
            options = parse_activations(used)
        except QsdError as error:
            raise QsdError(f"{_SOURCE}: {error}") from None
        texts = [str(option) for option in options]
        steps = [group.steps for group in document.groups]
        ranges = tuple((pair[0], pair[1]) for pair in steps if pair is not None)
        if not document.groups or (ranges and len(ranges) != len(steps)) or (len(steps) > 1 and not ranges):
            raise QsdError(f"{_SOURCE}: groups and steps do not fit; {_REMEDY}")
        if ranges:
            check_ranges(ranges, _SOURCE)
        position = {name: index for index, name in enumerate(names)}
        try:
            attention: dict[str, dict[str, list[int]]] = {
                owner: {str(letter): [position[name] for name in makers] for letter, makers in of.items()}
                for owner, of in document.attention.items()
            }
        except KeyError as error:
            raise QsdError(f"{_SOURCE}: attention of the unknown layer {error}; {_REMEDY}") from None
        vectors = np.stack(
            [layers_from_json(group.options, names, texts, _SOURCE) for group in document.groups]
        )
        return cls(layers, attention, options, vectors, ranges or None)

    def activations(self) -> np.ndarray | Schedule:
        """What an :class:`ActivationHooks` applies."""
        return self.vectors[0] if self.ranges is None else Schedule(self.ranges, self.vectors)

    def tensors(self, table: ActivationTable) -> dict[str, Tensor]:
        """What calibration found for these options, by the names that the file gives it.

        Raises:
            QsdError: an option needs calibration and there was none.
        """
        found: dict[str, Tensor] = {}
        for index, part, option in self._calibrated():
            layer = self.layers[index]
            rounding(option, table.ranges.get(layer.name), layer.name)  # says what is missing
            calibration = table.ranges[layer.name].calibration(option)
            for kind, values in (("span", calibration.span), ("divisors", calibration.divisors)):
                if values is not None:
                    bits = values.detach().float().cpu().contiguous().view(torch.int32)
                    found[f"{layer.module}.{HOLDER}.{buffer_name(part, option, kind)}"] = bits
        return found

    def attach(self, denoiser: nn.Module, held: Mapping[str, Tensor] | None = None) -> None:
        """Gives layers holders of what calibration found.

        Args:
            denoiser: whose layers get them.
            held: tensors by the names that the file gives them; by default holders are empty, for a loader
                to fill.

        Raises:
            QsdError: a layer is not in the denoiser.
        """
        by_module: dict[str, dict[str, Tensor]] = {}
        for index, part, option in self._calibrated():
            layer = self.layers[index]
            buffers = by_module.setdefault(layer.module, {})
            if option.static:
                buffers[buffer_name(part, option, "span")] = torch.empty(2, dtype=torch.int32, device="meta")
            if option.transform == "m":
                size = _channels(_module(denoiser, layer.module), layer.segment)
                buffers[buffer_name(part, option, "divisors")] = torch.empty(
                    size, dtype=torch.int32, device="meta"
                )
        for path, buffers in by_module.items():
            own = buffers if held is None else {key: held[f"{path}.{HOLDER}.{key}"] for key in buffers}
            _module(denoiser, path).add_module(HOLDER, Holder(own))

    def start(self, denoiser: nn.Module) -> ActivationHooks:
        """Makes a denoiser round from now on; its holders are filled.

        Raises:
            QsdError: a layer is not in the denoiser.
        """
        stored: dict[str, Stored] = {}
        for index, part, _ in self._calibrated():
            layer = self.layers[index]
            holder = _module(denoiser, layer.module).get_submodule(HOLDER)
            assert isinstance(holder, Holder)
            stored[layer.name] = Stored(holder, part)
        for layer in self.layers:
            _module(denoiser, layer.module)
        hooks = ActivationHooks(denoiser, self.layers, self.attention, ActivationTable(self.options, stored))
        hooks.apply(self.activations())
        object.__setattr__(denoiser, _ATTRIBUTE, hooks)
        return hooks

    def _calibrated(self) -> Iterator[tuple[int, int, ActivationOption]]:
        """Layers with options that need calibration: position, part of the module's input, option."""
        parts: dict[str, list[int]] = {}
        for index, layer in enumerate(self.layers):
            parts.setdefault(layer.module, []).append(index)
        for index, layer in enumerate(self.layers):
            for number in np.unique(self.vectors[:, index]):
                if self.options[number].needs_ranges:
                    yield index, parts[layer.module].index(index), self.options[number]


def stop(denoiser: nn.Module) -> None:
    """Takes carried activations off a denoiser, if it has some."""
    hooks = getattr(denoiser, _ATTRIBUTE, None)
    if hooks is not None:
        hooks.apply(None)
        object.__delattr__(denoiser, _ATTRIBUTE)
        for module in denoiser.modules():
            module._modules.pop(HOLDER, None)


def hooks_of(denoiser: nn.Module) -> ActivationHooks | None:
    """What rounds the inputs of a denoiser that carries activations."""
    return getattr(denoiser, _ATTRIBUTE, None)


def _short(layer: CarriedLayer) -> dict[str, Any]:
    place: dict[str, Any] = {} if layer.module == layer.name else {"module": layer.module}
    if layer.segment is not None:
        place["segment"] = list(layer.segment)
    return place | ({"tied": list(layer.tied)} if layer.tied else {})


def _module(denoiser: nn.Module, path: str) -> nn.Module:
    try:
        return denoiser.get_submodule(path)
    except AttributeError:
        raise QsdError(
            f"{_SOURCE}: layer '{path}' is not in {type(denoiser).__name__}; load the folder with the class "
            "that its config.json names, or export again"
        ) from None


def _channels(module: Any, segment: tuple[int, int] | None) -> int:
    if segment is not None:
        return segment[1] - segment[0]
    return int(module.in_features if isinstance(module, nn.Linear) else module.in_channels)


class _Place(Schema):
    module: str | None = None
    segment: list[int] | None = Field(default=None, min_length=2, max_length=2)
    tied: list[str] = Field(default_factory=list)


class _Group(Schema):
    steps: list[int] | None = Field(default=None, min_length=2, max_length=2)
    options: dict[str, str]


class _Entry(Schema):
    simulated: Literal[True]
    layers: dict[str, _Place]
    attention: dict[str, dict[Literal["q", "k", "v"], list[str]]]
    groups: list[_Group]
