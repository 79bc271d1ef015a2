"""Calls of a full-precision denoiser while its pipeline draws: what it was given, and what it answered."""

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from qsd.evaluation.generate import Generator
from qsd.evaluation.settings import EvaluationSettings


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the denoiser.

    Attributes:
        arguments: by name, tensors on the CPU; those of 16 bits in float32, which training computes in.
        output: float32, the answer at full precision.
        step: of the drawing, 0 first.
    """

    arguments: dict[str, Any]
    output: Tensor
    step: int


class Calls(Dataset[Call]):
    """All calls of a drawing, as a map-style dataset.

    Args:
        pipe: at full precision.
        denoiser: that of the pipeline which is watched.
        settings: how to draw; ``num_images`` images in batches of ``batch_size``.
        noise_seed: of these images.
    """

    def __init__(self, pipe: Any, denoiser: nn.Module, settings: EvaluationSettings, noise_seed: int) -> None:
        self._calls: list[Call] = []
        names = list(inspect.signature(denoiser.forward).parameters)
        started = 0

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            arguments.pop("return_dict", None)
            kept = tree_map_only(Tensor, lambda tensor: _widened(tensor.detach().cpu()).clone(), arguments)
            self._calls.append(Call(kept, answer(output).detach().float().cpu().clone(), len(self) - started))

        handle = denoiser.register_forward_hook(note, with_kwargs=True)
        try:
            for _ in Generator(pipe, settings).batches(noise_seed):
                started = len(self)
        finally:
            handle.remove()
        self._calls = [  # outside of the pipeline's inference mode, so that autograd may keep them
            Call(tree_map_only(Tensor, Tensor.clone, call.arguments), call.output.clone(), call.step)
            for call in self._calls
        ]

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def answer(output: Any) -> Tensor:
    """The prediction in what a diffusers denoiser returns."""
    while not isinstance(output, Tensor):
        output = output[0] if isinstance(output, tuple | list) else next(iter(output.values()))
    return output


def on_device(value: Any, device: torch.device) -> Any:
    """Nested arguments with their tensors on a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)
