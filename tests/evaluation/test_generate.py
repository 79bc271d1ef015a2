"""Drawing with stock pipelines of the six families: paired noise, encoded conditions, what is recorded."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.tiny_pipelines import PAPER_PIPELINES, PROMPTS, dit, pixart_alpha, sd15, tiny_pipeline
from support.unseen_pipelines import deepfloyd, flux, qwen_image, z_image

from qsd.denoisers.components import denoiser_of
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.conditions import conditions_of
from qsd.evaluation.generate import Generator, _seed
from qsd.support.errors import QsdError

Drawn = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    prompts = str(tmp_path / "prompts.txt")
    return EvaluationSettings(prompts=prompts, num_images=3, steps=2, guidance=1.0, batch_size=2)


def draw(pipe: Any, settings: EvaluationSettings, noise_seed: int = 0) -> Drawn:
    """All latents and images."""
    pipe.set_progress_bar_config(disable=True)
    _, latents, images = zip(*Generator(pipe, settings).batches(noise_seed), strict=True)
    return torch.cat(latents), torch.cat(images)


def generators(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(_seed(0, index)) for index in range(count)]


@pytest.mark.parametrize("family", PAPER_PIPELINES)
def test_the_same_as_the_stock_call(family: str, settings: EvaluationSettings) -> None:
    pipe = PAPER_PIPELINES[family]()
    guidance = 1.0 if family == "dit" else 3.0
    latents, images = draw(pipe, dataclasses.replace(settings, guidance=guidance))
    again = draw(pipe, dataclasses.replace(settings, guidance=guidance))
    assert torch.equal(latents, again[0]) and torch.equal(images, again[1])
    assert not torch.equal(latents, draw(pipe, dataclasses.replace(settings, guidance=guidance), 1)[0])
    words: dict[str, Any] = {"prompt": PROMPTS[:3]}
    if family == "dit":
        words = {"class_labels": pipe.get_label_ids(PROMPTS[:3])}
    if family.startswith("pixart"):
        words |= {"use_resolution_binning": False, "clean_caption": False}
    if family == "hunyuan":
        words |= {"use_resolution_binning": False}
    stock = pipe(
        **words, num_inference_steps=2, guidance_scale=guidance, generator=generators(), output_type="np"
    ).images
    difference = np.abs(images.permute(0, 2, 3, 1).numpy() - 255 * stock).max()
    assert difference < 0.51, "rounded to whole numbers, batches and trimmed text apart"


@pytest.mark.parametrize("family", PAPER_PIPELINES)
def test_an_image_depends_on_its_own_seed_alone(family: str, settings: EvaluationSettings) -> None:
    pipe = PAPER_PIPELINES[family]()
    together, _ = draw(pipe, dataclasses.replace(settings, batch_size=3))
    alone, _ = draw(pipe, dataclasses.replace(settings, batch_size=1))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_noise_of_a_stochastic_scheduler_is_paired(settings: EvaluationSettings) -> None:
    pipe, deterministic = pixart_alpha(), pixart_alpha()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    together, _ = draw(pipe, dataclasses.replace(settings, batch_size=3))
    alone, _ = draw(pipe, dataclasses.replace(settings, batch_size=1))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert (together - draw(deterministic, settings)[0]).abs().max() > 0.1


def test_noise_that_a_pipeline_draws_itself_is_reproducible(settings: EvaluationSettings) -> None:
    pipe = dit()
    pipe.scheduler = diffusers.DDPMScheduler()
    before = torch.random.get_rng_state()
    latents, _ = draw(pipe, settings)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator is left alone"
    torch.randn(3)
    assert torch.equal(draw(pipe, settings)[0], latents)
    assert not torch.equal(draw(pipe, settings, 1)[0], latents)


def test_noise_is_what_stores_were_labeled_with(settings: EvaluationSettings) -> None:
    pipe = pixart_alpha()
    found, _ = draw(pipe, dataclasses.replace(settings, batch_size=3))
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators()])
    with torch.inference_mode():
        expected = pipe(
            **conditions_of(pipe, PROMPTS[:3], 1.0, 2),
            negative_prompt=None,
            latents=noise,
            num_inference_steps=2,
            guidance_scale=1.0,
            use_resolution_binning=False,
            output_type="latent",
        ).images
    factor = pipe.vae.config.scaling_factor
    assert torch.equal(found, expected / factor * factor)


def test_a_safety_checker_replaces_nothing(
    settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, checked = sd15(), sd15()
    vars(checked)["safety_checker"] = checker = lambda **inputs: (
        np.zeros_like(inputs["images"]),
        [True] * len(inputs["images"]),
    )
    assert torch.equal(draw(checked, settings)[1], draw(pipe, settings)[1])
    assert checked.safety_checker is checker
    assert "decode" not in vars(checked.vae)


def test_pixels_are_latents_without_a_vae(settings: EvaluationSettings) -> None:
    latents, images = draw(deepfloyd(), settings)
    assert latents.shape == images.shape == (3, 3, 16, 16)
    assert latents.min() < -0.1
    assert torch.equal(images, ((latents / 2 + 0.5) * 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("family", "guided_rows"), [*((name, 2) for name in PAPER_PIPELINES if name != "dit"), ("flux", 1)]
)
def test_guidance(family: str, guided_rows: int, settings: EvaluationSettings) -> None:
    pipe = (PAPER_PIPELINES | {"flux": flux})[family]()
    side = {"height": 16, "width": 16} if family == "flux" else {}
    assert rows_per_image(pipe, dataclasses.replace(settings, **side)) == 1
    assert rows_per_image(pipe, dataclasses.replace(settings, guidance=2.0, **side)) == guided_rows


@pytest.mark.parametrize("build", [qwen_image, z_image])
def test_guidance_under_other_names(build: Any, settings: EvaluationSettings) -> None:
    pipe = build()
    settings = dataclasses.replace(settings, height=32, width=32)
    assert rows_per_image(pipe, settings) == 1
    assert rows_per_image(pipe, dataclasses.replace(settings, guidance=2.0)) == 2


def rows_per_image(pipe: Any, settings: EvaluationSettings) -> float:
    """How many rows the denoiser computes for each image and step."""
    rows: list[int] = []
    hook = denoiser_of(pipe).register_forward_hook(lambda *arguments: rows.append(len(arguments[-1][0])))
    draw(pipe, settings)
    hook.remove()
    return sum(rows) / (settings.steps * settings.num_images)


def test_classes_are_names_or_numbers() -> None:
    pipe = dit()
    assert conditions_of(pipe, ["a three", "1", " 0 "], 1.0, 2) == {"class_labels": [2, 1, 0]}
    with pytest.raises(QsdError, match="'a dog' is no class of the pipeline; prompts must be class names"):
        conditions_of(pipe, ["a dog"], 1.0, 2)
    with pytest.raises(QsdError, match="numbers from 0 to 3"):
        conditions_of(pipe, ["4"], 1.0, 2)
    with pytest.raises(QsdError, match="guides with class 1000, and the denoiser has 4; set guidance to 1"):
        conditions_of(pipe, ["1"], 2.0, 2)


def test_what_cannot_be_drawn_is_said(settings: EvaluationSettings) -> None:
    unconditional = diffusers.DDPMPipeline(tiny_pipeline().transformer, diffusers.DDPMScheduler())
    with pytest.raises(QsdError, match="DDPMPipeline: draws from neither prompts nor classes"):
        Generator(unconditional, settings)
    with pytest.raises(QsdError, match="DiTPipeline: has no choice of height"):
        Generator(dit(), dataclasses.replace(settings, height=16))
    with pytest.raises(QsdError, match=r"StableDiffusionPipeline: .*divisible by 8"):
        draw(sd15(), dataclasses.replace(settings, height=17, width=17))


def test_the_text_of_flux_is_encoded_once_and_as_long_as_asked_for(
    settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = flux()
    lengths = []
    encode = pipe.text_encoder_2.forward

    def recording(input_ids: torch.Tensor, **options: Any) -> Any:
        lengths.append(tuple(input_ids.shape))
        return encode(input_ids, **options)

    monkeypatch.setattr(pipe.text_encoder_2, "forward", recording)
    generator = Generator(pipe, dataclasses.replace(settings, max_sequence_length=16))
    images = torch.cat([images for *_, images in generator.batches(0)])
    assert lengths == [(2, 16), (1, 16)]  # a batch each, not once more when drawing
    stock = pipe(
        PROMPTS[:3],
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=generators(),
        output_type="np",
        max_sequence_length=16,
    ).images
    assert np.abs(images.permute(0, 2, 3, 1).numpy() - 255 * stock).max() < 0.51


def test_a_pipeline_without_text_of_that_length_says_so(settings: EvaluationSettings) -> None:
    with pytest.raises(QsdError, match="StableDiffusionPipeline: has no choice of max_sequence_length"):
        Generator(sd15(), dataclasses.replace(settings, max_sequence_length=16))
