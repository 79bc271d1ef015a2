"""What every training loop of the zoo shares: AdamW with warmup and cosine decay, and weight averaging."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from qsd.progress import Progress

Batch = tuple[torch.Tensor, ...]


def fit(
    parameters: Iterable[nn.Parameter],
    draw: Callable[[], Batch],
    loss: Callable[..., torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
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
        weight_decay: of AdamW.
        workers: threads that share each batch; networks this small gain nothing from threads within an
            operation.
        after_step: called with the number of steps done.
        progress: told every 10 steps.
        message: what the progress line says.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True
    )
    warmup = max(1, min(200, steps // 20))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))),
    )

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
