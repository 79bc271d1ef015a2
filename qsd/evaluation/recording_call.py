"""The call that inputs of denoisers are recorded from, as the settings of an evaluation have it."""

from typing import Any

import torch

from qsd.evaluation.call import accepted_by, check_call
from qsd.evaluation.generate import only_value
from qsd.evaluation.given import load_given
from qsd.evaluation.pictures import load_pictures
from qsd.evaluation.settings import EvaluationSettings

_SIZES = ("height", "width", "num_frames", "max_sequence_length")


def recording_call(pipe: Any, settings: EvaluationSettings | None) -> dict[str, Any]:
    """Arguments for :func:`qsd.denoisers.recording.record_inputs`: what the first image is drawn from.

    Args:
        pipe: a diffusers pipeline.
        settings: whose first prompt, sizes, pictures and ``call`` count; None names nothing.

    Raises:
        QsdError: see :func:`qsd.evaluation.call.check_call`; pictures or files are missing.
    """
    if settings is None:
        return {}
    frames = settings.num_frames
    rows: dict[str, Any] = load_pictures(pipe, settings.images, 1, frames) if settings.images else {}
    rows |= load_given(pipe, settings.call, 1, frames)
    chosen = {name: getattr(settings, name) for name in _SIZES if name in accepted_by(pipe)}
    if settings.prompts is not None and "prompt" in accepted_by(pipe):
        rows["prompt"] = settings.load_prompts()[:1]
    return {
        **{name: value for name, value in chosen.items() if value is not None},
        **check_call(pipe, settings.call),
        **{
            name: value if isinstance(value, torch.Tensor) else only_value(pipe, name, value)
            for name, value in rows.items()
        },
    }
