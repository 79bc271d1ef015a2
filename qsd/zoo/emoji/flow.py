"""The training that the miniatures of emoji share: flow matching on latents, averaged weights, resumable.

Rectified flow (Liu et al. 2022, "Flow Straight and Fast"; Esser et al. 2024, "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis"): a point between a picture and noise,
``(1 - sigma) * x + sigma * noise``, and the velocity ``noise - x`` that is predicted there.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from qsd.support.progress import Progress
from qsd.zoo.diffusion import Recipe, fit_denoiser
from qsd.zoo.optimization import Batch

_NO_CAPTION = 0.05
_DECAY = 0.999


class FlowMiniature(Protocol):
    """A denoiser with its conditioning, trained together; what differs between the families."""

    recipe: Recipe
    """Of one cycle."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything that is trained, under the pipeline's component names."""

    def pipeline(self, vae: Any) -> DiffusionPipeline:
        """The stock pipeline around the trained parts."""

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the velocity.

        Args:
            noisy: float32 [B, ...], latents.
            sigmas: float32 [B], the share of noise.
            captions: int64 [B], positions in the captions that the miniature was made with.
        """


def train_flow(
    miniature: FlowMiniature,
    latents: torch.Tensor,
    *,
    seed: int,
    resume: Path,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trains in place; the modules end with their averaged weights.

    Args:
        miniature: modules on the latents' device, made with the captions of the latents, row by row, and the
            empty caption behind them.
        latents: float32 [N, ...], unit variance.
        seed: of batches and noise.
        resume: where the state of an interrupted training lies.
        progress: told every 10 steps.

    Returns:
        ``loss``, the mean squared error over the last tenth of the steps.
    """
    batch = miniature.recipe.batch

    def draw() -> Batch:
        rows = torch.randint(len(latents), (batch,))
        noise = torch.randn(batch, *latents.shape[1:]).to(latents)
        sigmas = ((torch.arange(batch) + torch.rand(batch)) / batch).to(latents)
        captions = torch.where(torch.rand(batch) < _NO_CAPTION, len(latents), rows)
        return latents[rows], noise, sigmas, captions.to(latents.device)

    def loss(
        clean: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor, captions: torch.Tensor
    ) -> torch.Tensor:
        share = sigmas.view(-1, *(1,) * (clean.ndim - 1))
        noisy = (1 - share) * clean + share * noise
        return nn.functional.mse_loss(miniature.predict(noisy, sigmas, captions), noise - clean)

    [(steps, learning_rate)] = miniature.recipe.cycles
    torch.manual_seed(seed)
    final = fit_denoiser(
        *(miniature.modules, miniature.recipe, draw, loss, steps, learning_rate),
        decay=_DECAY,
        resume=resume,
        progress=progress,
    )
    return {"loss": final}
