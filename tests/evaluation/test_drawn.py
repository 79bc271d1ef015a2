"""What a call may answer with: images, videos, sound, embeddings."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.drawing import latents, settings
from support.sounding import ltx2
from support.tiny_pipelines import (
    sd15,
    unconditional,
)
from support.unseen_pipelines import wan

from qsd.evaluation.evaluator import Evaluator, Measurement, _check_drawn, paired_labels
from qsd.evaluation.generate import Generator
from qsd.evaluation.pictures import are_embeddings, frames_of
from qsd.support.errors import QsdError


def test_all_frames_count_in_paired_labels(tmp_path: Path) -> None:
    pipe = wan()
    chosen = settings(tmp_path, height=16, width=16, num_frames=5)
    drawn = next(iter(Generator(pipe, chosen).drawings(0)))
    assert drawn.frames.shape[:2] == (2, 5)
    assert torch.equal(drawn.images, drawn.frames[:, 2])
    evaluator = Evaluator(pipe, chosen)
    full = evaluator.full_precision(0)
    assert len(full.frames) == 10
    full.frames[0] = 255 - full.frames[0]  # a first frame, which no middle frame shows
    assert evaluator.measure(0).labels["psnr"] < 100


def test_sound_is_a_picture_of_its_samples() -> None:
    wave = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    frames = frames_of(wave)
    assert frames.shape == (2, 1, 3, 1, 6)
    assert torch.allclose(frames[:, 0, 0, 0], torch.from_numpy(wave) / 2 + 0.5)
    assert frames_of(torch.zeros(2, 2, 6)).shape == (2, 1, 3, 2, 6)


def test_infinite_pictures_are_noticed_before_they_are_cut_to_their_range(tmp_path: Path) -> None:
    pipe = sd15()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] = float("inf")
    with pytest.raises(QsdError, match="the decoded images are not finite numbers; nothing is written"):
        next(iter(Generator(pipe, settings(tmp_path)).batches(0)))


def test_sound_counts_beside_pictures(tmp_path: Path) -> None:
    pipe = ltx2()
    evaluator = Evaluator(pipe, settings(tmp_path, height=32, width=32, num_frames=5, steps=1))
    full = evaluator.full_precision(0)
    assert full.sound is not None
    assert len(full.sound) == len(full.images) == 2
    assert full.labels == {"psnr": 100.0, "latent_mse": 0.0}
    with torch.no_grad():
        pipe.transformer.audio_proj_out.weight.mul_(2)  # the last layer of sound alone
    labels = evaluator.measure(0).labels
    assert 50 < labels["psnr"] < 100
    assert labels["latent_mse"] > 0


def test_psnr_of_both_is_their_mean() -> None:
    zero, latents = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 5)
    full = Measurement({}, zero, latents, zero, zero)
    drawn = dataclasses.replace(full, sound=zero + 255)
    assert paired_labels(drawn, full)["psnr"] == 50.0
    assert paired_labels(full, full)["psnr"] == 100.0


def test_several_pictures_of_one_prompt_and_embeddings() -> None:
    image, depth = np.zeros((2, 4, 6, 3), np.float32), np.ones((2, 4, 6, 1), np.float32)
    assert frames_of((image, depth)).shape == (2, 2, 3, 4, 6)
    embedding = torch.arange(2 * 16 * 3 * 5).reshape(2, 16, 3, 5).float()
    frames = frames_of(embedding)
    assert frames.shape == (2, 1, 3, 1, 240)
    assert torch.allclose(frames[:, 0, 0, 0] * 2 - 1, embedding.flatten(1))
    first = torch.rand(2, 3, 8, 8)
    assert torch.equal(frames_of(first)[:, 0], first)


def test_embeddings_are_compared_beyond_the_range_of_pictures() -> None:
    """All of them lie outside of it, where frames are cut."""
    full = torch.tensor([[40.0, -40.0, 60.0, -60.0]])
    cut = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    measured = Measurement({}, cut, full, cut, are_embeddings=True)
    near, far = (dataclasses.replace(measured, latents=full + shift) for shift in (1.2, 12.0))
    assert paired_labels(measured, measured) == {"psnr": 100.0, "latent_mse": 0.0}
    assert paired_labels(near, measured)["psnr"] == pytest.approx(40.0, abs=1e-4)
    assert paired_labels(far, measured)["psnr"] == pytest.approx(20.0, abs=1e-4)
    _check_drawn(measured)
    with pytest.raises(QsdError, match="one number"):
        _check_drawn(dataclasses.replace(measured, latents=torch.ones(1, 4)))
    prior, wave = SimpleNamespace(), SimpleNamespace(vocoder=object())
    assert are_embeddings(prior, torch.ones(2, 12))
    assert are_embeddings(prior, np.ones((2, 16, 24, 24)))
    assert not are_embeddings(wave, np.ones((2, 12)))
    assert not any(
        are_embeddings(prior, np.ones(shape)) for shape in ((2, 2, 12), (2, 8, 8, 3), (2, 3, 8, 8))
    )
    assert not are_embeddings(SimpleNamespace(vae=object()), np.ones((2, 12)))


def test_what_is_guided_by_gradients_draws(tmp_path: Path) -> None:
    class Guided(diffusers.DDPMPipeline):
        def __call__(
            self, batch_size: int = 1, generator: Any = None, output_type: str = "np", **_: Any
        ) -> Any:
            """Needs a gradient."""
            with torch.enable_grad():
                values = torch.ones(batch_size, 3, 8, 8, requires_grad=True)
                (slope,) = torch.autograd.grad(self.unet(values, 1).sample.sum(), values)
            return (slope.movedim(1, -1).numpy(),)

    assert len(latents(Guided(**unconditional().components), settings(tmp_path, prompts=False))) == 2
