"""Short videos of emoji: five frames of 16x16 pixels in which a picture grows, turns or slides."""

import math

import torch
from torch.nn import functional

FRAMES, SIZE = 5, 16
MOTIONS = ("growing", "turning", "sliding")

_SMALLEST = 0.4
_QUARTER = math.pi / 2
_TRAVEL = 0.5  # of half the width, to each side


def video_captions(captions: list[str]) -> list[str]:
    """Every caption with every motion, motions varying fastest: ``fox face, 3d, turning``."""
    return [f"{caption}, {motion}" for caption in captions for motion in MOTIONS]


def animate(images: torch.Tensor) -> torch.Tensor:
    """Every picture in every motion.

    Args:
        images: float32 [N, 3, H, W] in [-1, 1], on white.

    Returns:
        float32 [N * motions, 3, frames, 16, 16] in [-1, 1], in the order of :func:`video_captions`.
    """
    small = functional.interpolate(images, (SIZE, SIZE), mode="area")
    frames = [_moved(small, motion, step / (FRAMES - 1)) for motion in MOTIONS for step in range(FRAMES)]
    stacked = torch.stack(frames, 1).unflatten(1, (len(MOTIONS), FRAMES))
    return stacked.flatten(0, 1).transpose(1, 2).contiguous()


def _moved(images: torch.Tensor, motion: str, progress: float) -> torch.Tensor:
    """The frame at a progress from 0 to 1; what enters from outside is white."""
    scale = _SMALLEST + (1 - _SMALLEST) * progress if motion == "growing" else 1.0
    angle = _QUARTER * progress if motion == "turning" else 0.0
    shift = _TRAVEL * (2 * progress - 1) if motion == "sliding" else 0.0
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = torch.tensor([[cosine, sine, -shift], [-sine, cosine, 0.0]])
    grid = functional.affine_grid(
        matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False
    ).to(images)
    return functional.grid_sample(images - 1, grid, mode="bilinear", align_corners=False) + 1
