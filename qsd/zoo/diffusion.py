"""The denoiser training that all miniatures share: noise prediction on latents, averaged weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import nn

from qsd.support.progress import Progress
from qsd.zoo.captions import all_captions, caption
from qsd.zoo.digits import KEEP_ATTRIBUTE, Digits
from qsd.zoo.optimization import Batch, MovingAverage, fit

NUM_TIMESTEPS = 1000
NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}
"""Shared by training and by the samplers in the folders."""


def sampler() -> Any:  # the pipelines are annotated with an enumeration that no scheduler fits
    """The sampler in the folders: second-order SDE solver, whose fresh noise forgives a small model's errors.

    From "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models" (Lu et al. 2022).
    """
    return DPMSolverMultistepScheduler(**NOISE_SCHEDULE, algorithm_type="sde-dpmsolver++")


_NO_CAPTION = 0.05
_DECAY = 0.999


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a denoiser is trained.

    Attributes:
        cycles: steps and AdamW's peak learning rate of the training and of its warm restarts.
        muon: trains the matrices of the denoiser's blocks by Muon (K. Jordan et al. 2024, "Muon: An optimizer
            for hidden layers in neural networks"), everything else by AdamW; without it AdamW trains all.
        batch: latents per update.
        workers: threads that share each batch.
    """

    cycles: tuple[tuple[int, float], ...] = ((3000, 2e-3),)
    muon: bool = True
    batch: int = 128
    workers: int = 1


class Miniature(Protocol):
    """A denoiser with its conditioning, trained together; what differs between the families."""

    factor: int
    """Pixels per latent of its autoencoder, in each direction; 1 has none and draws pixels."""
    recipe: Recipe
    autoencoder_of: str | None
    """The checkpoint whose autoencoder it shares; None has its own."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything that is trained, under the pipeline's component names."""

    def pipeline(self, vae: Any) -> DiffusionPipeline:
        """The stock pipeline around the trained parts; ``vae`` is None where it draws pixels."""

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the noise.

        Args:
            noisy: float32 [B, C, H, W].
            timesteps: int64 [B].
            captions: int64 [B], positions in :func:`caption_table`.
        """


def caption_table() -> list[str]:
    """The empty caption and every caption there is; denoisers are trained on positions in this list."""
    return ["", *all_captions()]


def train_denoiser(
    miniature: Miniature,
    latents: torch.Tensor,
    digits: Digits,
    recipe: Recipe,
    *,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trains in place; the modules end with their averaged weights.

    Args:
        miniature: modules on the latents' device; training starts from whatever weights they have.
        latents: float32 [N, C, H, W] of all digits, unit variance.
        digits: the captions' source.
        recipe: how long and how fast.
        resume: see :func:`qsd.zoo.optimization.fit`; an interruption repeats earlier cycles.
        progress: told every 10 steps.

    Returns:
        ``loss``, the mean squared error over the last tenth of the steps of the last cycle.
    """
    final = 0.0
    for number, (steps, learning_rate) in enumerate(recipe.cycles):
        file = resume and resume.with_name(f"{resume.name}-{number}")
        final = _train_cycle(miniature, latents, digits, recipe, steps, learning_rate, file, progress)
    return {"loss": final}


def _train_cycle(
    miniature: Miniature,
    latents: torch.Tensor,
    digits: Digits,
    recipe: Recipe,
    steps: int,
    learning_rate: float,
    resume: Path | None,
    progress: Progress | None,
) -> float:
    add_noise = DDPMScheduler(**NOISE_SCHEDULE).add_noise
    choices = _caption_choices(digits).to(latents.device)

    def draw() -> Batch:
        rows = torch.randint(len(latents), (recipe.batch,))
        noise = torch.randn(recipe.batch, *latents.shape[1:]).to(latents.device)
        timesteps = _stratified_timesteps(recipe.batch)
        drop = (torch.rand(recipe.batch, 2) > KEEP_ATTRIBUTE).long()
        captions = choices[rows, 2 * drop[:, 0] + drop[:, 1]]
        captions = captions * (torch.rand(recipe.batch) >= _NO_CAPTION).to(captions)
        return latents[rows], noise, timesteps.to(latents.device), captions

    def loss(
        clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor
    ) -> torch.Tensor:
        noisy = add_noise(clean, noise, timesteps)
        return nn.functional.mse_loss(miniature.predict(noisy, timesteps, captions), noise)

    return fit_denoiser(
        miniature.modules, recipe, draw, loss, steps, learning_rate, resume=resume, progress=progress
    )


def fit_denoiser(
    modules: nn.ModuleDict,
    recipe: Recipe,
    draw: Callable[[], Batch],
    loss: Callable[..., torch.Tensor],
    steps: int,
    learning_rate: float,
    *,
    decay: float = _DECAY,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> float:
    """Trains modules, which end with their averaged weights; see :func:`qsd.zoo.optimization.fit`."""
    modules.train().requires_grad_(True)
    average = MovingAverage(modules, decay)
    final = fit(
        modules.parameters(),
        draw,
        loss,
        steps=steps,
        learning_rate=learning_rate,
        matrices=block_matrices(modules) if recipe.muon else (),
        workers=recipe.workers,
        average=average,
        resume=resume,
        progress=progress,
        message="denoiser",
    )
    average.load()
    modules.eval().requires_grad_(False)
    return final


def block_matrices(modules: nn.Module) -> list[torch.Tensor]:
    """The weights of linear layers and convolutions inside blocks; embedders and output layers stay out."""
    layers = {name: module for name, module in modules.named_modules() if "block" in name}
    return [layer.weight for layer in layers.values() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _stratified_timesteps(batch: int) -> torch.Tensor:
    """One uniform draw from each of ``batch`` equal intervals of the 1,000 steps, int64 [batch]."""
    return ((torch.arange(batch) + torch.rand(batch)) * (NUM_TIMESTEPS / batch)).long()


def _caption_choices(digits: Digits) -> torch.Tensor:
    """Caption positions [N, 4] per digit: nothing left out, the slant, the weight, both."""
    position = {text: index for index, text in enumerate(caption_table())}
    keep = [(True, True), (True, False), (False, True), (False, False)]
    return torch.tensor(
        [
            [position[caption(digit, attributes.kept(*flags))] for flags in keep]
            for digit, attributes in zip(digits.classes.tolist(), digits.attributes, strict=True)
        ]
    )
