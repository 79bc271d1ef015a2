"""Hooks that make a denoiser compute with rounded activations, and leave no trace when they are taken off."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qsd.bank.attention import RoundedAttention
from qsd.bank.steps import StepCounter
from qsd.configs.schedule import Schedule
from qsd.denoisers.graph import Graph
from qsd.denoisers.layers import STACK, WeightLayer
from qsd.denoisers.roles import attention_part
from qsd.quantizers.activations import FULL_ACTIVATIONS, ActivationOption, Calibrated, Rounding, rounding
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class ActivationTable:
    """The activation options that an activation vector points into.

    Attributes:
        options: A options.
        ranges: by layer, of its input on full-precision images, where an option needs them.
    """

    options: tuple[ActivationOption, ...] = FULL_ACTIVATIONS
    ranges: Mapping[str, Calibrated] = dataclasses.field(default_factory=dict)

    def checked(self, activation: np.ndarray, num_layers: int) -> np.ndarray:
        """An activation vector as int8 [L].

        Raises:
            QsdError: it is of another layer set or option table.
        """
        activation = np.asarray(activation)
        if activation.shape != (num_layers,):
            raise QsdError(
                f"activations: {activation.shape[-1] if activation.ndim else 0} options for {num_layers} "
                "layers; use activation options that were made for this denoiser"
            )
        if activation.size and not 0 <= activation.min() <= activation.max() < len(self.options):
            raise QsdError(
                f"activations: options {activation.min()} to {activation.max()}, and the table has 0 to "
                f"{len(self.options) - 1} ({', '.join(map(str, self.options))}); use one table for both"
            )
        return activation.astype(np.int8)


class HasInput(Protocol):
    """What there is to know of a layer to round its input; see :class:`qsd.denoisers.WeightLayer`."""

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> str: ...
    @property
    def segment(self) -> tuple[int, int] | None: ...
    @property
    def tied(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def macs(self) -> int: ...


Makers = Mapping[str, Mapping[str, Sequence[int]]]
"""Attention module -> "q", "k", "v" -> positions of the layers that make them."""


def attention_layers(layers: Sequence[WeightLayer], graph: Graph) -> dict[str, dict[str, list[int]]]:
    """Attention modules that multiply queries and keys, and the layers that make what they multiply.

    Returns:
        Module path -> "q", "k", "v" -> positions of layers; in joint attention there are several.
    """
    products = {node.name.partition(".qk")[0] for node in graph.nodes if node.kind == "qk"}
    found: dict[str, dict[str, list[int]]] = {}
    for index, layer in enumerate(layers):
        for path in (layer.module, *layer.tied):
            if layer.role == "self_attn_ff.in":
                owner, part = path.rpartition(".")[0], "qkv"
            else:
                owner, part = attention_part(path) or ("", "")
            if owner not in products:
                continue
            for letter in part.removeprefix("added ") if "out" not in part else "":
                if letter in "qkv":
                    found.setdefault(owner, {}).setdefault(letter, []).append(index)
    return found


class ActivationHooks:
    """Rounds the inputs of layers, and queries, keys and values on their way into attention products.

    The option of a layer rounds what it reads. That of a layer which makes queries, keys or values also
    rounds these, after norms and rotary embeddings, where the attention product reads them; where two layers
    make them (joint attention), the option with more bits does. Probabilities have 8 bits wherever one of the
    three has less than 16.

    Args:
        denoiser: what they are put on.
        layers: L weight layers.
        attention: what makes the operands of attention products, see :func:`attention_layers`.
        table: the options.
    """

    def __init__(
        self, denoiser: nn.Module, layers: Sequence[HasInput], attention: Makers, table: ActivationTable
    ) -> None:
        self._denoiser = denoiser
        self._layers = list(layers)
        self._table = table
        self._attention = attention
        self._modules: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            for path in (layer.module, *layer.tied) if layer.kind != STACK else ():
                self._modules.setdefault(path, []).append(index)
        self._handles: list[RemovableHandle] = []
        self._current: np.ndarray | None = None
        self._schedule: Schedule | None = None
        self._counter: StepCounter | None = None

    def apply(self, activations: np.ndarray | Schedule | None) -> None:
        """Puts options on, in place of those that were on: the same in every step, by steps, or none.

        Raises:
            QsdError: they do not fit the layers or the table, or steps cannot be told apart.
        """
        if self._counter is not None:
            self._counter.remove()
            self._counter = self._schedule = None
        if activations is None:
            self.clear()
        elif isinstance(activations, Schedule):
            for vector in activations.activations:
                self.set(vector)  # refuses what does not fit, before anything is drawn
            self._schedule = activations
            self._counter = StepCounter(self._denoiser, activations.num_steps, self.begin_step)
        else:
            self.set(activations)

    def check_drawn(self) -> None:
        """Refuses drawings, complete now, that took fewer steps than the schedule that is on has."""
        if self._counter is not None:
            self._counter.check_drawn()

    def begin_step(self, step: int) -> None:
        """Puts on what the schedule has for a sampling step."""
        assert self._schedule is not None
        self.set(self._schedule.at(step))

    def set(self, activation: np.ndarray) -> None:
        """Puts the options int8 [L] on, in place of those that were on.

        Raises:
            QsdError: they do not fit the layers or the table.
        """
        activation = self._table.checked(activation, len(self._layers))
        self._check_called(activation)
        if self._current is not None and np.array_equal(activation, self._current):
            return
        self.clear()
        options = [self._table.options[index] for index in activation]
        done: set[int] = set()
        for path, indices in self._modules.items():
            module = self._denoiser.get_submodule(path)
            if id(module) not in done and not all(options[index].is_full for index in indices):
                done.add(id(module))
                parts = [(self._layers[index].segment, self._rounding(index, options)) for index in indices]
                self._handles.append(_round_input(module, parts))
        for owner, makers in self._attention.items():
            operands = {letter: _finest(makers.get(letter, []), options) for letter in "qkv"}
            if any(operands.values()):
                self._handles += _round_attention(self._denoiser.get_submodule(owner), owner, operands)
        self._current = activation

    def _check_called(self, activation: np.ndarray) -> None:
        """Refuses to round an input that no hook would see."""
        counted = any(layer.macs for layer in self._layers)
        for layer, index in zip(self._layers, activation, strict=True):
            if counted and not layer.macs and not self._table.options[index].is_full:
                raise QsdError(
                    f"layer '{layer.name}': something else than its module reads its weight, so its input "
                    "cannot be rounded; give it activation option 16"
                )

    def clear(self) -> None:
        """Takes everything off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._current = [], None

    def _rounding(self, index: int, options: Sequence[ActivationOption]) -> Rounding | None:
        name = self._layers[index].name
        return rounding(options[index], self._table.ranges.get(name), name)


def _finest(makers: Sequence[int], options: Sequence[ActivationOption]) -> ActivationOption | None:
    """The option with the most bits among those of some layers, without what only fits a layer's input."""
    bits = max((options[index].bits for index in makers), default=0)
    option = ActivationOption(bits) if bits else None
    return None if option is None or option.is_full else option


def _round_input(
    module: nn.Module, parts: Sequence[tuple[tuple[int, int] | None, Rounding | None]]
) -> RemovableHandle:
    """Rounds the input of a module, each segment of its channels in its own way."""
    axis = channel_axis(module)

    def rounded(values: Tensor) -> Tensor:
        tokens = values.movedim(axis, -1)
        if parts[0][0] is None:
            tokens = _applied(parts[0][1], tokens)
        else:
            tokens = torch.cat(
                [_applied(part, tokens[..., slice(*segment)]) for segment, part in parts if segment], dim=-1
            )
        return tokens.movedim(-1, axis)

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (rounded(args[0]), *args[1:]), kwargs
        return args, kwargs | {"input": rounded(kwargs["input"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _applied(part: Rounding | None, values: Tensor) -> Tensor:
    return values if part is None else part(values)


def channel_axis(module: nn.Module) -> int:
    """The axis of a layer's input that its weight sums over: a token is what lies along it."""
    weight: Any = module.weight
    return -1 if isinstance(module, nn.Linear) else 1 - int(weight.ndim)


def _round_attention(
    module: nn.Module, name: str, parts: Mapping[str, ActivationOption | None]
) -> list[RemovableHandle]:
    roundings = [
        None if option is None else rounding(option, None, f"{name}.{letter}")
        for letter, option in parts.items()
    ]
    active: list[RoundedAttention] = []

    def enter(*_: Any) -> None:
        active.append(RoundedAttention(name, *roundings))
        active[-1].__enter__()

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        if not active:  # a hook before this one failed
            return
        mode = active.pop()
        mode.__exit__(None, None, None)
        if output is not None:  # None: the module failed
            mode.finish()

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]
