"""Tells which sampling step a denoiser is in, from the timesteps that it is called with."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from qsd.support.errors import QsdError

_NAMES = ("timestep", "t", "timesteps")


class StepCounter:
    """Calls back at the beginning of every sampling step.

    A step ends where the timestep changes; several calls of one step (guidance as two calls) share theirs.
    The first timestep of a drawing, once seen, must come back after the number of steps.

    Args:
        denoiser: whose calls are counted.
        num_steps: steps of a drawing.
        begin: called with the step, 0 to ``num_steps`` - 1.
    """

    def __init__(self, denoiser: nn.Module, num_steps: int, begin: Callable[[int], None]) -> None:
        parameters = inspect.signature(denoiser.forward).parameters
        name = next((name for name in _NAMES if name in parameters), None)
        if name is None:
            raise QsdError(
                f"{type(denoiser).__name__}: is called without a timestep, so steps cannot be told apart; "
                "give one activation vector in place of a schedule"
            )
        self._name, self._place = name, list(parameters).index(name)
        self._num_steps, self._begin = num_steps, begin
        self._first: float | None = None
        self._last: float | None = None
        self._step = -1
        self._handle: RemovableHandle = denoiser.register_forward_pre_hook(self._called, with_kwargs=True)

    def remove(self) -> None:
        """Stops counting."""
        self._handle.remove()

    def _called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs[self._name] if self._name in kwargs else args[self._place]
        time = float(torch.as_tensor(given).flatten()[0])
        if time == self._last:
            return
        self._last = time
        self._step = (self._step + 1) % self._num_steps
        if self._first is None:
            self._first = time
        if (self._step == 0) != (time == self._first):
            raise self._mismatch()
        self._begin(self._step)

    def check_drawn(self) -> None:
        """Refuses drawings, complete now, that ended before the last step, which no call tells."""
        if self._step != self._num_steps - 1:
            raise self._mismatch()

    def _mismatch(self) -> QsdError:
        return QsdError(
            f"schedule: is for {self._num_steps} steps, and the pipeline takes another number; draw with "
            f"{self._num_steps} steps or use another schedule"
        )
