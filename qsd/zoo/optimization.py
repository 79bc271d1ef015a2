"""What the training loops of the zoo share: AdamW and Muon, warmup and cosine decay, weight averaging."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from qsd.support.progress import Progress

Batch = tuple[torch.Tensor, ...]

_MUON_RATE = 0.01


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
    after_step: Callable[[int], None] | None = None,
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
        after_step: called with the number of steps done.
        progress: told every 10 steps.
        message: what the progress line says.

    Returns:
        Mean loss of the last tenth of the steps.
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

    losses = []
    with ThreadPoolExecutor(workers) as pool:
        for step in range(1, steps + 1):
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
            if after_step:
                after_step(step)
            if progress and (step % 10 == 0 or step == steps):
                recent = losses[-100:]
                progress(step, steps, f"{message}, loss {sum(recent) / len(recent):.4f}")
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


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
