"""Says where what is drawn does not depend on the denoiser, so that labels and probes tell nothing."""

import logging
from collections.abc import Collection, Mapping

import numpy as np

from qsd.evaluation.evaluator import MAX_PSNR

FEW = 3
"""Configs after which it is said."""
PART = 0.25
"""Of the layers, which must be probed before it is said."""


def moved_by(labels: Mapping[str, float]) -> bool:
    """Whether a config drew anything else than full precision."""
    return labels.get("psnr", 0.0) < MAX_PSNR or labels.get("latent_mse", 1.0) > 0


def changed_by(changes: Mapping[str, np.ndarray]) -> bool:
    """Whether any option of a probed layer drew anything else than full precision."""
    return any(bool(values.any()) for values in changes.values())


def say_if_unmoved(moved: Collection[bool], what: str) -> None:
    """A remark where all draw what full precision draws, bit for bit.

    Args:
        moved: of each that was measured, whether it drew anything else.
        what: configs or layers.
    """
    if moved and not any(moved):
        logging.getLogger(__name__).warning(
            "all %d %s draw bit for bit what full precision draws: the denoiser has no part in it; raise "
            "steps, num_frames, or `strength` in call, or check its last layer's weights for zeros",
            *(len(moved), what),
        )
