"""What the training loops of the zoo share: AdamW, Muon, cosine decay, weight averaging, resuming."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qsd.support.errors import QsdError, first_line
from qsd.support.files import atomic
from qsd.support.progress import Progress

Batch = tuple[torch.Tensor, ...]

_MUON_RATE = 0.01
_SAVE_SECONDS = 60.0


class MovingAverage:
    """Exponential moving average of a module's parameters, with a decay that warms up."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.average = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the current parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, list(self.module.parameters()), 1 - decay)

    @torch.no_grad()
    def load(self) -> None:
        """Replaces the module's parameters by their average."""
        for parameter, average in zip(self.module.parameters(), self.average, strict=True):
            parameter.copy_(average)


def fit(
    parameters: Iterable[nn.Parameter],
    draw: Callable[[], Batch],
    loss: Callable[..., torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    matrices: Sequence[torch.Tensor] = (),
    workers: int = 1,
    average: MovingAverage | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
    message: str,
) -> float:
    """Minimises a stochastic loss.

    Args:
        parameters: what is trained.
        draw: a random batch, tensors with one leading dimension.
        loss: mean loss, a scalar, of a batch or a part of it.
        steps: number of updates; the first 5 % (at most 200) warm up, then the rate decays as a cosine.
        learning_rate: peak rate of AdamW.
        weight_decay: of AdamW and Muon.
        matrices: those of the parameters that Muon trains instead of AdamW, of two or more dimensions; all
            but the first are flattened. On the miniatures it needs a third of AdamW's steps.
        workers: threads that share each batch; networks this small gain nothing from threads within an
            operation.
        average: follows the parameters.
        resume: file that holds the state once a minute, and from which an interrupted training goes on as if
            nothing had happened; removed at the end.
        progress: told every 10 steps.
        message: what the progress line says.

    Returns:
        Mean loss of the last tenth of the steps.

    Raises:
        QsdError: the file to resume from belongs to another training.
    """
    parameters = list(parameters)
    warmup = max(1, min(200, steps // 20))
    flat = [nn.Parameter(matrix.detach().flatten(1)) for matrix in matrices]  # views on the same numbers
    by_muon = {id(matrix) for matrix in matrices}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [parameter for parameter in parameters if id(parameter) not in by_muon],
            lr=learning_rate,
            weight_decay=weight_decay,
            betas=(0.9, 0.99),
            fused=True,
        )
    ]
    if flat:
        optimizers.append(torch.optim.Muon(flat, lr=_MUON_RATE, weight_decay=weight_decay))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))),
        )
        for optimizer in optimizers
    ]

    def gradient(part: Batch) -> tuple[float, tuple[torch.Tensor, ...]]:
        value = loss(*part)
        return value.item(), torch.autograd.grad(value, parameters)

    losses: list[float] = []
    state = _State(parameters, optimizers, schedules, average)
    if resume and resume.exists():
        losses = state.load(resume)
    saved = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        for step in range(len(losses) + 1, steps + 1):
            parts = zip(*(tensor.chunk(workers) for tensor in draw()), strict=True)
            values, gradients = zip(*pool.map(gradient, parts), strict=True)
            for parameter, *shares in zip(parameters, *gradients, strict=True):
                parameter.grad = torch.stack(shares).mean(0) if workers > 1 else shares[0]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for view, matrix in zip(flat, matrices, strict=True):
                view.grad = None if matrix.grad is None else matrix.grad.flatten(1)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            losses.append(sum(values) / workers)
            if average:
                average.update(step)
            if resume and time.monotonic() - saved > _SAVE_SECONDS:
                state.save(resume, losses)
                saved = time.monotonic()
            if progress and (step % 10 == 0 or step == steps):
                recent = losses[-100:]
                progress(step, steps, f"{message}, loss {sum(recent) / len(recent):.4f}")
    if resume:
        resume.unlink(missing_ok=True)
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


class _State:
    """Everything that a training has changed, with the global generator."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        optimizers: list[torch.optim.Optimizer],
        schedules: list[torch.optim.lr_scheduler.LambdaLR],
        average: MovingAverage | None,
    ) -> None:
        self._tensors = [*parameters, *(average.average if average else ())]
        self._stateful: list[Any] = [*optimizers, *schedules]

    def save(self, path: Path, losses: list[float]) -> None:
        """Writes the file in one step."""
        content = {
            "tensors": [tensor.detach() for tensor in self._tensors],
            "stateful": [thing.state_dict() for thing in self._stateful],
            "losses": losses,
            "generator": torch.get_rng_state(),
        }
        with atomic(path) as temporary:
            torch.save(content, temporary)

    @torch.no_grad()
    def load(self, path: Path) -> list[float]:
        """Puts everything back; returns the losses so far."""
        try:
            content = torch.load(path, weights_only=True)
            for tensor, value in zip(self._tensors, content["tensors"], strict=True):
                tensor.copy_(value)
            for thing, value in zip(self._stateful, content["stateful"], strict=True):
                thing.load_state_dict(value)
        except Exception as error:  # unpickling and copying raise many kinds; all mean "not this training"
            raise QsdError(
                f"{path}: cannot resume from it ({first_line(error)}); remove it to train from the start"
            ) from error
        torch.set_rng_state(content["generator"])
        return list(content["losses"])
