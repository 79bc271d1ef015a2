"""Where the time of a label goes: drawing, or everything around it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from qsd.denoisers.components import denoisers_of
from qsd.denoisers.decoders import decoder_of
from qsd.evaluation.evaluator import Evaluator
from qsd.labels.measurer import Job, Measurer

DRAWING = ("denoiser", "decode")
"""What a label cannot do without."""


def time_shares(measurer: Measurer, job: Job) -> dict[str, float]:
    """Measures a config once to warm up and once with stopwatches.

    Args:
        measurer: measures.
        job: the config.

    Returns:
        Seconds by part: ``denoiser`` (its forward passes), ``decode``, ``metrics``, and ``rest``: the config
        applied, the scheduler, the pipeline's own work.
    """
    measurer.measure(job.config, job.noise_seed, job.activations)
    spent = dict.fromkeys((*DRAWING, "metrics"), 0.0)
    with contextlib.ExitStack() as stack:
        for module in denoisers_of(measurer.pipe).values():
            stack.enter_context(_timed_calls(module, spent, "denoiser"))
        decoder = decoder_of(measurer.pipe)
        if decoder is not None:
            stack.enter_context(_timed(decoder, "decode", spent, "decode"))
        for owner, name in _metrics(measurer.evaluator):
            stack.enter_context(_timed(owner, name, spent, "metrics"))
        begun = _now()
        measurer.measure(job.config, job.noise_seed, job.activations)
        whole = _now() - begun
    return spent | {"rest": whole - sum(spent.values())}


def _metrics(evaluator: Evaluator) -> Iterator[tuple[Any, str]]:
    if evaluator.distribution is not None:
        yield evaluator.distribution, "update"
        yield evaluator.distribution, "labels"
    if evaluator.clip is not None:
        yield evaluator.clip, "update"


@contextlib.contextmanager
def _timed_calls(module: nn.Module, spent: dict[str, float], part: str) -> Iterator[None]:
    """Adds up the time inside of a module's calls meanwhile, whatever its ``forward`` is replaced with."""
    begun: list[float] = []

    def begin(*_: Any) -> None:
        begun.append(_now())

    def end(*_: Any) -> None:
        spent[part] += _now() - begun.pop()

    hooks = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float], part: str) -> Iterator[None]:
    """Adds up the time inside a method meanwhile."""
    method: Callable[..., Any] = getattr(owner, name)
    own = vars(owner).get(name)

    def timing(*args: Any, **kwargs: Any) -> Any:
        begun = _now()
        try:
            return method(*args, **kwargs)
        finally:
            spent[part] += _now() - begun

    vars(owner)[name] = timing
    try:
        yield
    finally:
        del vars(owner)[name]
        if own is not None:
            vars(owner)[name] = own


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
