"""Draws the images of a denoiser's current weights: same prompts and same noise for every config."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch

from qsd.evaluation.conditions import conditions_of, guidance_of
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.errors import QsdError, first_line


class Generator:
    """Batches of latents and images for the prompts of the settings, drawn by the pipeline's own call.

    Every image has a random generator of its own, on the CPU so that every device starts from the same noise.
    Pipelines hand them to a stochastic scheduler too; one that does not gets noise that depends on the seed
    and the batch. A safety checker is switched off: it would replace images, and labels compare what the
    denoiser drew.

    Attributes:
        pipe: the diffusers pipeline that draws (typed loosely: every family has its own call).
        settings: images, steps, guidance, size and batch size.
        prompts: one prompt an image.
    """

    def __init__(self, pipe: Any, settings: EvaluationSettings) -> None:
        """Encodes the prompts.

        Raises:
            QsdError: the pipeline draws from neither prompts nor classes, does not know a class, or has no
                choice of the size that the settings name.
        """
        self.pipe = pipe
        self.settings = settings
        self.prompts = settings.load_prompts()
        self._conditions = conditions_of(
            pipe, self.prompts, settings.guidance, settings.batch_size, settings.max_sequence_length
        )
        self._options = _options(pipe, settings)
        if "prompt_embeds" in self._conditions:
            self._options["negative_prompt"] = None  # some have a default that excludes encoded prompts

    def batches(self, noise_seed: int) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Draws all images.

        Args:
            noise_seed: seed of the noise; image i depends on (noise_seed, i) alone.

        Yields:
            (rows, latents float32 [B, ...], images uint8 [B, 3, H, W]), both on the CPU. Latents are what
            the VAE decodes, in the scale of the denoiser, or the images from -1 to 1 of a pipeline without
            one. The image of a video is its middle frame, its latents are those of all frames.

        Raises:
            QsdError: the pipeline refuses the settings.
        """
        for start in range(0, self.settings.num_images, self.settings.batch_size):
            rows = slice(start, min(start + self.settings.batch_size, self.settings.num_images))
            yield rows, *self._draw(rows, noise_seed)

    @torch.inference_mode()
    def _draw(self, rows: slice, noise_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and images of a batch."""
        device = self.pipe.device
        conditions = {
            name: value[rows].to(device) if isinstance(value, torch.Tensor) else value[rows]
            for name, value in self._conditions.items()
        }
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _replaced(self.pipe, "safety_checker", None),
            _recorded(self.pipe) as decoded,
        ):
            torch.manual_seed(_seed(noise_seed, rows.start))
            generators = [
                torch.Generator().manual_seed(_seed(noise_seed, index))
                for index in range(rows.start, rows.stop)
            ]
            try:
                images = self.pipe(**conditions, **self._options, generator=generators, return_dict=False)[0]
            except ValueError as error:  # what pipelines raise for a size or a scale that they do not take
                raise QsdError(f"{type(self.pipe).__name__}: {first_line(error)}") from error
        images = torch.from_numpy(images).movedim(-1, -3)
        latents = torch.cat(decoded).float() * _scaling_factor(self.pipe) if decoded else images * 2 - 1
        if images.ndim == 5:
            images = images[:, images.shape[1] // 2]
        return latents.cpu(), (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _options(pipe: Any, settings: EvaluationSettings) -> dict[str, Any]:
    """What the pipeline's call takes beside conditions and generators."""
    accepted = inspect.signature(pipe.__call__).parameters
    size = {
        "height": settings.height,
        "width": settings.width,
        "num_frames": settings.num_frames,
        "max_sequence_length": settings.max_sequence_length,
    }
    chosen = {name: value for name, value in size.items() if value is not None}
    for name in chosen:
        if name not in accepted:
            raise QsdError(f"{type(pipe).__name__}: has no choice of {name}; leave it out")
    fixed: dict[str, Any] = {
        "num_inference_steps": settings.steps,
        "output_type": "np",  # in this form alone all pipelines return images from 0 to 1
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    usable = {name: value for name, value in fixed.items() if name in accepted}
    return usable | chosen | guidance_of(pipe, settings.guidance)


def _seed(noise_seed: int, index: int) -> int:
    return noise_seed * 1_000_003 + index


def _scaling_factor(pipe: Any) -> float:
    return getattr(pipe.vae.config, "scaling_factor", None) or 1.0


@contextlib.contextmanager
def _recorded(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what the pipeline's VAE, if it has one, decodes meanwhile."""
    latents: list[torch.Tensor] = []
    vae = getattr(pipe, "vae", None)
    if vae is None:
        yield latents
        return
    decode = vae.decode

    def recording(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        latents.append(z)
        return decode(z, *args, **kwargs)

    with _replaced(vae, "decode", recording):
        yield latents


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an object another attribute meanwhile, behind the back of pipelines, which record assignments."""
    attributes, absent = vars(owner), object()
    before = attributes.get(name, absent)
    attributes[name] = value
    try:
        yield
    finally:
        if before is absent:
            del attributes[name]
        else:
            attributes[name] = before
