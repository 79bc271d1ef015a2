"""The zoo: its data are always the same, its shipped folders are stock, and training runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPModel,
    CLIPProcessor,
    ResNetForImageClassification,
)

from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation.distribution import frechet_metric
from qsd.support.errors import QsdError
from qsd.zoo import (
    autoencoder,
    captions,
    classifier,
    clip,
    diffusion,
    digits,
    pixart_alpha,
    quality,
    registry,
)
from qsd.zoo.optimization import MovingAverage, fit

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
DATA = ROOT / "datasets" / "digits"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real_digits() -> digits.Digits:
    pytest.importorskip("sklearn")
    return digits.load_digits()


@pytest.fixture(scope="module")
def pipeline() -> Any:
    pipeline = DiffusionPipeline.from_pretrained(CHECKPOINTS / "digits-pixart-alpha", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def digit_classifier() -> ResNetForImageClassification:
    return AutoModelForImageClassification.from_pretrained(CHECKPOINTS / "digits-classifier").eval()


def test_every_caption_says_what_it_was_made_of() -> None:
    texts = captions.all_captions()
    assert len(set(texts)) == 120
    assert all(captions.caption(*captions.parse(text)) == text for text in texts)
    assert {word for text in texts for word in text.split()} == set(captions.VOCABULARY)
    with pytest.raises(ValueError, match="a bold ten"):
        captions.parse("a bold ten")


def test_a_sheared_bar_is_measured_by_its_slant_and_width() -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")

    def bar(shear: float, width: float) -> torch.Tensor:
        return (255 * torch.sigmoid(4 * (width / 2 - (x - 7.5 + shear * (y - 7.5)).abs()))).to(torch.uint8)

    images = torch.stack([bar(-0.3, 3), bar(0.0, 3), bar(0.3, 3), bar(0.0, 5)]).numpy()
    slant, weight = captions.stroke_slant(images), captions.stroke_weight(images)
    assert slant[0] == pytest.approx(-0.3, abs=0.05)
    assert slant[1] == pytest.approx(0.0, abs=1e-6)
    assert slant[2] == pytest.approx(0.3, abs=0.05)
    assert weight[3] > weight[1] + 1


def test_shipped_data_are_what_the_command_writes(real_digits: digits.Digits, tmp_path: Path) -> None:
    facts = digits.write_data(tmp_path)
    assert facts == {"images": 1797, "prompts": 1797, "held_out": 359}
    for name in ("prompts.txt", "classes.txt", "class_prompts.txt"):
        assert (tmp_path / name).read_text() == (DATA / name).read_text()
    shipped = load_file(DATA / "images.safetensors")["images"]
    assert shipped.shape == (1797, 1, 16, 16)
    assert torch.equal(shipped, real_digits.grey)


def test_prompts_ask_for_digits_in_the_real_proportions(real_digits: digits.Digits) -> None:
    texts = (DATA / "prompts.txt").read_text().splitlines()
    classes = [int(line) for line in (DATA / "classes.txt").read_text().split()]
    assert [captions.parse(text)[0] for text in texts] == classes
    real = torch.bincount(real_digits.classes) / 1797
    asked = torch.bincount(torch.tensor(classes[:1000]), minlength=10) / 1000
    assert (real - asked).abs().max() < 0.005


@pytest.mark.parametrize("name", registry.TRAINERS)
def test_folders_are_small_and_do_not_tell_where_they_were_made(name: str) -> None:
    files = [file for file in (CHECKPOINTS / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    for file in files:
        if file.suffix == ".json":
            text = file.read_text()
            assert "name_or_path" not in json.loads(text)
            assert not any(path in text for path in ("_name_or_path", "/tmp", "/home", "/root", "/work"))


def test_pipeline_draws_at_its_default_size(pipeline: Any) -> None:
    image = pipeline("a bold seven slanted right", guidance_scale=1.0, use_resolution_binning=False).images[0]
    assert image.size == (16, 16)
    assert pipeline.transformer.config.num_layers == 6
    assert pipeline.vae_scale_factor == 2


@pytest.mark.parametrize("name", registry.MINIATURES)
def test_miniatures_draw_the_digits_they_are_asked_for(name: str) -> None:
    settings = dataclasses.replace(registry.labeling_settings(name, 50), kid_subset_size=50)
    facts = quality.measure_quality(load_pipeline(CHECKPOINTS / name), settings)
    assert facts["agreement"] >= 0.9
    assert facts["real_half_fid"] == pytest.approx(0.233, abs=0.001)


def test_padding_of_the_prompt_changes_nothing(pipeline: Any) -> None:
    def encoded(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        text, mask, _, _ = pipeline.encode_prompt(
            "a thin two", do_classifier_free_guidance=False, max_sequence_length=length
        )
        return text, mask

    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = [
        pipeline.transformer(
            latents,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=torch.tensor([500]),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        for text, mask in (encoded(6), encoded(120))
    ]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-4)


def test_classifier_knows_held_out_digits(
    real_digits: digits.Digits, digit_classifier: ResNetForImageClassification
) -> None:
    held_out = real_digits.held_out
    pixels = autoencoder.to_pixels(real_digits.rgb[held_out])
    seen = classifier.classify(digit_classifier, pixels)
    assert (seen == real_digits.classes[held_out]).float().mean() >= 0.98
    processor = AutoImageProcessor.from_pretrained(CHECKPOINTS / "digits-classifier")
    processed = processor(images=list(real_digits.rgb[held_out]), return_tensors="pt").pixel_values
    assert torch.allclose(processed, pixels, atol=1e-6)


def test_clip_knows_held_out_digits(real_digits: digits.Digits) -> None:
    model = CLIPModel.from_pretrained(CHECKPOINTS / "digits-clip").eval()
    processor = CLIPProcessor.from_pretrained(CHECKPOINTS / "digits-clip")
    facts = clip.held_out_accuracy(model, processor.tokenizer, real_digits)
    assert facts["held_out_digit_accuracy"] >= 0.95
    assert facts["held_out_weight_accuracy"] >= 0.85
    assert facts["held_out_slant_accuracy"] >= 0.75
    batch = processor(
        text=["a seven", "a bold seven slanted right"],
        images=list(real_digits.rgb[:2]),
        return_tensors="pt",
        padding=True,
    )
    assert batch["input_ids"].shape == (2, 7)
    assert torch.allclose(batch["pixel_values"], autoencoder.to_pixels(real_digits.rgb[:2]), atol=1e-6)


@pytest.mark.parametrize("name", registry.MINIATURES)
def test_a_miniature_of_few_steps_makes_a_working_folder(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    calls = []
    out = tmp_path / "folder"
    for _ in range(2 if name == "digits-pixart-alpha" else 1):  # the second replaces the first
        facts = registry.TRAINERS[name](
            out,
            device=CPU,
            cycles=((3, 1e-3), (2, 1e-3)),
            autoencoder_steps=4,
            progress=lambda *call: calls.append(call),
        )
    assert facts["bytes"] == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert (2, 2) in {call[:2] for call in calls}
    assert list(tmp_path.iterdir()) == [out]
    settings = dataclasses.replace(
        registry.labeling_settings(name, 2), steps=2, kid_subset_size=2, prompts=_two_prompts(tmp_path, name)
    )
    assert quality.measure_quality(load_pipeline(out), settings)["fid"] > 0


def _two_prompts(folder: Path, name: str) -> str:
    file = folder / "prompts.txt"
    file.write_text("a one\na two\n" if name == "digits-dit" else "a bold one\na two upright\n")
    return str(file)


def test_muon_moves_the_matrices_it_is_given_along_all_directions_alike() -> None:
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(2, 4, 3), nn.Linear(4, 4)
    model = nn.Sequential(convolution, nn.Flatten(), linear)
    images, targets = torch.randn(64, 2, 3, 3), torch.randn(64, 4)
    before = [layer.weight.detach().clone() for layer in (convolution, linear)]
    fit(
        model.parameters(),
        lambda: (images, targets),
        lambda x, y: nn.functional.mse_loss(model(x), y),
        steps=1,
        learning_rate=0.05,
        weight_decay=0.0,
        matrices=[convolution.weight],
        message="",
    )
    by_muon, by_adam = (
        layer.weight.detach() - old for layer, old in zip((convolution, linear), before, strict=True)
    )
    # A step of Muon is an orthogonal matrix times its rate, a first step of AdamW the rate in every entry.
    sizes = torch.linalg.svdvals(by_muon.flatten(1))
    assert sizes.min() > 0.006
    assert sizes.max() < 0.013
    assert torch.allclose(by_adam.abs(), torch.full_like(by_adam, 0.05), rtol=1e-3)


def test_training_is_reproducible(real_digits: digits.Digits) -> None:
    def trained() -> torch.Tensor:
        torch.manual_seed(5)
        miniature = pixart_alpha.PixArtAlpha(CPU)
        latents = torch.randn(1797, 4, 8, 8)
        diffusion.train_denoiser(miniature, latents, real_digits, diffusion.Recipe(((2, 1e-3),), batch=8))
        return nn.utils.parameters_to_vector(miniature.modules.parameters())

    assert torch.equal(trained(), trained())


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_latents_are_normalised_without_changing_the_reconstruction(
    factor: int, real_digits: digits.Digits
) -> None:
    torch.manual_seed(0)
    vae = autoencoder.build_autoencoder(factor).eval()
    images = autoencoder.to_pixels(real_digits.rgb[:64])
    latents = autoencoder.encode(vae, images)
    channels = autoencoder.LATENT_CHANNELS[factor]
    assert latents.shape == (64, channels, 16 // factor, 16 // factor)
    with torch.no_grad():
        before = vae.decode(latents).sample
        autoencoder._normalise_latents(vae, latents)
        normalised = autoencoder.encode(vae, images)
        after = vae.decode(normalised).sample
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(channels), atol=1e-4)
    assert torch.allclose(normalised.std((0, 2, 3)), torch.ones(channels), atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)


def test_moving_average_follows_a_constant() -> None:
    module = nn.Linear(2, 2)
    average = MovingAverage(module, 0.5)
    nn.init.constant_(module.weight, 1.0)
    for step in range(1, 100):
        average.update(step)
    nn.init.constant_(module.weight, 9.0)
    average.load()
    assert torch.allclose(module.weight, torch.ones(2, 2))


def test_distance_from_ready_features() -> None:
    some = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    metric = frechet_metric(some)
    metric.update(some, real=False)
    assert float(metric.compute()) == pytest.approx(0, abs=1e-3)
    metric.reset()  # the real features stay
    metric.update(some + 1, real=False)
    assert float(metric.compute()) == pytest.approx(64, rel=1e-3)  # squared shift of the mean


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QsdError, match="digits-pixart-alpha"):
        registry.train("digits-flux", tmp_path / "out", device=CPU)
    assert not (tmp_path / "out").exists()
