"""The zoo: its data are always the same, its shipped folders are stock, and training runs."""

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

from qsd.errors import QsdError
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
from qsd.zoo.optimization import MovingAverage

ROOT = Path(__file__).parents[1]
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
    for name in ("prompts.txt", "classes.txt"):
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


@pytest.mark.parametrize("name", ["digits-pixart-alpha", "digits-classifier", "digits-clip"])
def test_folders_are_small_and_do_not_tell_where_they_were_made(name: str) -> None:
    files = [file for file in (CHECKPOINTS / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 6 * 1024**2
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


def test_pipeline_draws_the_digits_it_is_asked_for(
    pipeline: Any, digit_classifier: ResNetForImageClassification
) -> None:
    texts = (DATA / "prompts.txt").read_text().splitlines()[:50]
    noise = torch.stack([quality.image_noise((4, 8, 8), 0, row) for row in range(50)])
    images = quality.draw_with(pipeline, use_resolution_binning=False)(texts, noise)
    assert images.shape == (50, 3, 16, 16)
    seen = classifier.classify(digit_classifier, autoencoder.to_pixels(images))
    asked = torch.tensor([captions.parse(text)[0] for text in texts])
    assert (seen == asked).float().mean() >= 0.9


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
    features = quality.PooledFeatures(digit_classifier)(real_digits.rgb[:7])
    assert features.shape == (7, classifier.FEATURES)


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


def test_a_miniature_of_few_steps_makes_a_working_folder(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    calls = []
    out = tmp_path / "folder"
    for _ in range(2):  # the second replaces the first
        facts = registry.train_pixart_alpha(
            out,
            device=CPU,
            cycles=((4, 1e-3), (2, 1e-3)),
            autoencoder_steps=4,
            progress=lambda *call: calls.append(call),
        )
    assert facts["bytes"] == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert (4, 4) in {call[:2] for call in calls}
    assert list(tmp_path.iterdir()) == [out]
    opened: Any = DiffusionPipeline.from_pretrained(out, local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    settings = {"guidance_scale": 1.0, "use_resolution_binning": False, "num_inference_steps": 2}
    assert opened("a one", **settings).images[0].size == (16, 16)


def test_training_is_reproducible(real_digits: digits.Digits) -> None:
    def trained() -> torch.Tensor:
        torch.manual_seed(5)
        miniature = pixart_alpha.PixArtAlpha(CPU)
        latents = torch.randn(1797, 4, 8, 8)
        diffusion.train_denoiser(miniature, latents, real_digits, steps=2, batch=8, learning_rate=1e-3)
        return nn.utils.parameters_to_vector(miniature.modules.parameters())

    assert torch.equal(trained(), trained())


def test_latents_are_normalised_without_changing_the_reconstruction(real_digits: digits.Digits) -> None:
    torch.manual_seed(0)
    vae = autoencoder.build_autoencoder().eval()
    images = autoencoder.to_pixels(real_digits.rgb[:64])
    latents = autoencoder.encode(vae, images)
    with torch.no_grad():
        before = vae.decode(latents).sample
        autoencoder._normalise_latents(vae, latents)
        normalised = autoencoder.encode(vae, images)
        after = vae.decode(normalised).sample
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(normalised.std((0, 2, 3)), torch.ones(4), atol=1e-4)
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


def test_distance_of_a_set_to_itself_is_nothing(
    real_digits: digits.Digits, digit_classifier: ResNetForImageClassification
) -> None:
    some = real_digits.rgb[:400]
    assert quality.frechet_distance(digit_classifier, some, some) == pytest.approx(0, abs=1e-3)
    assert quality.frechet_distance(digit_classifier, some, 255 - some) > 1


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QsdError, match="digits-pixart-alpha"):
        registry.train("digits-flux", tmp_path / "out", device=CPU)
    assert not (tmp_path / "out").exists()
