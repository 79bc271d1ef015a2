"""The denoiser training that all miniatures share: noise prediction on latents, averaged weights."""

from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from qsd.progress import Progress
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

_NO_CAPTION = 0.05
_DECAY = 0.999
_WORKERS = 2


class Miniature(Protocol):
    """A denoiser with its conditioning, trained together; what differs between the families."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything that is trained, under the pipeline's component names."""

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
    *,
    steps: int,
    batch: int = 128,
    learning_rate: float,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trains in place; the modules end with their averaged weights.

    Args:
        miniature: modules on the latents' device.
        latents: float32 [N, C, H, W] of all digits, unit variance.
        digits: the captions' source.
        steps: number of updates.
        batch: latents per update.
        learning_rate: peak rate; training starts from whatever weights the modules have.
        progress: told every 10 steps.

    Returns:
        ``loss``, the mean squared error over the last tenth of the steps.
    """
    add_noise = DDPMScheduler(**NOISE_SCHEDULE).add_noise
    choices = _caption_choices(digits).to(latents.device)
    average = MovingAverage(miniature.modules, _DECAY)

    def draw() -> Batch:
        rows = torch.randint(len(latents), (batch,))
        noise = torch.randn(batch, *latents.shape[1:]).to(latents.device)
        timesteps = _stratified_timesteps(batch)
        drop = (torch.rand(batch, 2) > KEEP_ATTRIBUTE).long()
        captions = choices[rows, 2 * drop[:, 0] + drop[:, 1]]
        captions = captions * (torch.rand(batch) >= _NO_CAPTION).to(captions)
        return latents[rows], noise, timesteps.to(latents.device), captions

    def loss(
        clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor
    ) -> torch.Tensor:
        noisy = add_noise(clean, noise, timesteps)
        return nn.functional.mse_loss(miniature.predict(noisy, timesteps, captions), noise)

    miniature.modules.train().requires_grad_(True)
    final = fit(
        miniature.modules.parameters(),
        draw,
        loss,
        steps=steps,
        learning_rate=learning_rate,
        workers=_WORKERS if latents.device.type == "cpu" else 1,
        after_step=average.update,
        progress=progress,
        message="denoiser",
    )
    average.load()
    miniature.modules.eval().requires_grad_(False)
    return {"loss": final}


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
