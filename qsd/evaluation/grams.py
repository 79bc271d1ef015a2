"""How alike the features of a denoiser's layers are while it draws: Gram matrices, never the features."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qsd.denoisers.layers import WeightLayer
from qsd.evaluation.generate import Generator
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.errors import QsdError
from qsd.support.progress import Progress


def feature_grams(
    pipe: Any,
    denoiser: nn.Module,
    layers: list[WeightLayer],
    settings: EvaluationSettings,
    *,
    samples: int,
    steps: int,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """Gram matrices of all layers' outputs at some sampling steps, float64 [L, samples, samples] each.

    The full-precision denoiser draws ``samples`` images in one batch. A layer's features are the output of
    its module, flattened; of a guided pipeline those of the conditional half. Segments of one weight share
    an output; a module whose weight another one reads (an attention pool) has that one's output. Only Gram
    matrices are kept: L * samples**2 numbers a step.

    Args:
        pipe: at full precision.
        denoiser: its denoiser.
        layers: weight layers in bank order.
        settings: prompts, steps, guidance and seed of the noise.
        samples: images.
        steps: how many of the sampling steps, uniformly spaced.
        progress: called after every sampling step that is recorded.

    Raises:
        QsdError: more samples or steps are asked for than there are, or a layer has no features.
    """
    if steps > settings.steps:
        raise QsdError(f"{steps} steps of {settings.steps}: compare features at no more steps than are drawn")
    few = dataclasses.replace(
        settings, num_images=samples, batch_size=samples, reference=None, classes=None, clip=None
    )
    wanted = np.unique(np.linspace(0, settings.steps - 1, steps).round().astype(int)).tolist()
    recorder = _Recorder(denoiser, layers, samples, wanted, progress)
    with recorder.attached():
        for _ in Generator(pipe, few).batches(few.noise_seed):
            pass
    yield from recorder.grams()


class _Recorder:
    """Hooks that keep a Gram matrix per module and wanted step."""

    def __init__(
        self,
        denoiser: nn.Module,
        layers: list[WeightLayer],
        samples: int,
        wanted: list[int],
        progress: Progress | None,
    ) -> None:
        self._denoiser = denoiser
        self._layers = layers
        self._samples = samples
        self._wanted = wanted
        self._progress = progress
        self._step = -1
        self._found: dict[int, dict[str, np.ndarray]] = {step: {} for step in wanted}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Records meanwhile."""
        handles = [self._denoiser.register_forward_pre_hook(self._advance)]
        modules = {layer.module for layer in self._layers}
        for module in modules:
            handles.append(self._denoiser.get_submodule(module).register_forward_hook(self._hook(module)))
        paths = [module.split(".") for module in modules]
        around = {".".join(path[:end]) for path in paths for end in range(1, len(path))}
        for outer in around - modules:
            inner = [module for module in modules if module.startswith(f"{outer}.")]
            handles.append(self._denoiser.get_submodule(outer).register_forward_hook(self._fill(inner)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def grams(self) -> Iterator[np.ndarray]:
        """By wanted step, float64 [L, n, n]."""
        for step in self._wanted:
            found = self._found[step]
            missing = [layer.name for layer in self._layers if layer.module not in found]
            if missing:
                raise QsdError(
                    f"{missing[0]}: its output was not seen at sampling step {step}; compare features of a "
                    "pipeline that calls it in every step"
                )
            yield np.stack([found[layer.module] for layer in self._layers])

    def _advance(self, *_: Any) -> None:
        self._step += 1
        if self._progress and self._step in self._found:
            done = self._wanted.index(self._step) + 1
            self._progress(done, len(self._wanted), f"sampling step {self._step}")

    def _hook(self, module: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            if self._step in self._found:
                self._found[self._step][module] = _gram(output, self._samples)

        return record

    def _fill(self, modules: list[str]) -> Callable[[nn.Module, Any, Any], None]:
        """For modules that were not called by the time that one around them is done."""

        def record(_: nn.Module, __: Any, output: Any) -> None:
            found = self._found.get(self._step)
            missing = [] if found is None else [module for module in modules if module not in found]
            first = output[0] if isinstance(output, tuple) and output else output
            if found is not None and missing and isinstance(first, Tensor):
                found |= dict.fromkeys(missing, _gram(first, self._samples))

        return record


@torch.inference_mode()
def _gram(output: Tensor, samples: int) -> np.ndarray:
    """Of an output [B, ...] whose last rows are the samples'; one that all samples share has none to tell."""
    rows = output.detach()
    if len(rows) < samples or len(rows) % samples:
        return np.zeros((samples, samples))
    per_sample = len(rows) // samples
    if per_sample > 1:  # unconditional half first; or several rows a sample, which then all count
        rows = rows[-samples:]
    flat = rows.reshape(samples, -1).double()
    return (flat @ flat.T).cpu().numpy()
