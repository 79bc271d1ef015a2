"""Draws the images of a denoiser's current weights: same prompts and same noise for every config."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from qsd.denoisers.pipeline import denoiser_of
from qsd.errors import QsdError
from qsd.labels.settings import EvaluationSettings


class Generator:
    """Batches of latents and images for the prompts of the settings.

    Prompts are encoded once, when the generator is made, and text is padded to the longest prompt instead of
    the pipeline's maximum (masked tokens change nothing but the time).

    Attributes:
        pipe: the diffusers pipeline that draws (typed loosely: every family has its own call).
        settings: images, steps, guidance, size and batch size.
        prompts: one prompt an image.
    """

    def __init__(self, pipe: Any, settings: EvaluationSettings) -> None:
        """Encodes the prompts.

        Raises:
            QsdError: the pipeline's way of taking encoded prompts is not known.
        """
        self.pipe = pipe
        self.settings = settings
        self.prompts = settings.load_prompts()
        self._conditions = encode_prompts(pipe, self.prompts, settings.guidance, settings.batch_size)

    def batches(self, noise_seed: int) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Draws all images.

        Args:
            noise_seed: seed of the initial noise; image i depends on (noise_seed, i) alone.

        Yields:
            (rows, latents float32 [B, C, h, w], images uint8 [B, 3, H, W]), both on the CPU.
        """
        for start in range(0, self.settings.num_images, self.settings.batch_size):
            rows = slice(start, min(start + self.settings.batch_size, self.settings.num_images))
            latents = self._latents(rows, noise_seed)
            yield rows, latents.float().cpu(), self._decode(latents).cpu()

    @torch.inference_mode()
    def _latents(self, rows: slice, noise_seed: int) -> torch.Tensor:
        size = {"height": self.settings.height, "width": self.settings.width}
        conditions = {name: value[rows].to(self.pipe.device) for name, value in self._conditions.items()}
        optional: dict[str, Any] = {"use_resolution_binning": False}
        accepted = inspect.signature(self.pipe.__call__).parameters
        return self.pipe(
            **conditions,
            **{name: value for name, value in optional.items() if name in accepted},
            **{name: value for name, value in size.items() if value is not None},
            negative_prompt=None,
            latents=self._noise(rows, noise_seed),
            num_inference_steps=self.settings.steps,
            guidance_scale=self.settings.guidance,
            output_type="latent",
            return_dict=False,
        )[0]

    def _noise(self, rows: slice, noise_seed: int) -> torch.Tensor:
        """Standard normal noise, drawn on the CPU so that every device starts from the same."""
        denoiser: Any = denoiser_of(self.pipe)
        config = denoiser.config
        factor = self.pipe.vae_scale_factor
        height = self.settings.height // factor if self.settings.height else config.sample_size
        width = self.settings.width // factor if self.settings.width else config.sample_size
        noise = [
            torch.randn(config.in_channels, height, width, generator=_image_generator(noise_seed, index))
            for index in range(rows.start, rows.stop)
        ]
        return torch.stack(noise).to(self.pipe.device, denoiser.dtype)

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        images = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        return ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _image_generator(noise_seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(noise_seed * 1_000_003 + index)


@torch.inference_mode()
def encode_prompts(
    pipe: Any, prompts: list[str], guidance: float, batch_size: int
) -> dict[str, torch.Tensor]:
    """Encodes prompts for pipelines whose text condition is one embedding with one mask.

    Args:
        pipe: a pipeline whose ``encode_prompt`` returns (embeds, mask, negative embeds, negative mask).
        prompts: n prompts.
        guidance: above 1 the negative (empty) prompt is encoded too.
        batch_size: prompts per forward pass of the text encoder.

    Returns:
        Keyword arguments of the pipeline's call, each [n, tokens, ...] on the CPU.

    Raises:
        QsdError: the pipeline encodes prompts in another way.
    """
    names = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    if not set(names) <= set(inspect.signature(pipe.__call__).parameters):
        raise QsdError(
            f"{type(pipe).__name__}: cannot pass encoded prompts to it; PixArt pipelines are known"
        )
    guided = guidance > 1.0
    parts: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(prompts), batch_size):
        encoded = pipe.encode_prompt(prompts[start : start + batch_size], do_classifier_free_guidance=guided)
        for name, value in zip(names, encoded, strict=True):
            if value is not None:
                parts.setdefault(name, []).append(value.cpu())
    conditions = {name: torch.cat(values) for name, values in parts.items()}
    used = [conditions[name].sum(1).max() for name in conditions if name.endswith("mask")]
    tokens = int(torch.stack(used).max())  # both prompts of a guided pair share one length
    return {name: value[:, :tokens].contiguous() for name, value in conditions.items()}
