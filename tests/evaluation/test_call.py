"""What a pipeline is called with is checked first; images, videos, sound and pictures from pictures."""

import dataclasses
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.sounding import ltx2
from support.tiny_pipelines import (
    PROMPTS,
    dit,
    random_denoiser,
    sd15,
    sdxl,
    tiny_clip,
    tiny_vae,
    unconditional,
)
from support.unseen_pipelines import wan

import qsd
from qsd.denoisers.pictured import mask_name, picture_names
from qsd.evaluation.call import call_options, check_call
from qsd.evaluation.content import settings_content
from qsd.evaluation.evaluator import Evaluator, Measurement, _check_drawn, paired_labels
from qsd.evaluation.generate import Generator
from qsd.evaluation.pictures import are_embeddings, frames_of, load_pictures
from qsd.evaluation.recording_call import recording_call
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.errors import QsdError
from qsd.zoo.tokenizers import clip_tokenizer


def settings(
    folder: Path, *, prompts: bool = True, images: bool = False, **changes: Any
) -> EvaluationSettings:
    if prompts:
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    if images:
        pictures(folder / "pictures")
    base = EvaluationSettings(
        prompts=str(folder / "prompts.txt") if prompts else None,
        images=str(folder / "pictures") if images else None,
        num_images=2,
        steps=2,
        guidance=1.0,
        batch_size=2,
    )
    return dataclasses.replace(base, **changes)


def pictures(folder: Path, *, masks: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(0)
    for index in range(3):
        picture = Image.fromarray(values.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(folder / f"{index}.png")
        if masks:
            mask = Image.new("L", (16, 16), 0)
            mask.paste(255, (0, 0, 16, 8))
            mask.save(folder / f"{index}_mask.png")


def stable(cls: str, **unet: Any) -> Any:
    """A tiny Stable Diffusion of another pipeline class."""
    return getattr(diffusers, cls)(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(77),
        unet=random_denoiser("sd15", **unet),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": "x"}, "decided by the setting prompts"),
        ({"guidance_scale": 2.0}, "decided by the setting guidance"),
        ({"output_type": "pil"}, "decided by qsd"),
        ({"strenght": 0.5}, "no argument 'strenght'"),
        ({"eta": "much"}, "eta of StableDiffusionPipeline is a float"),
        ({"guidance_rescale": True}, "is a float"),
    ],
)
def test_arguments_that_may_not_be_are_refused_before_drawing(call: dict[str, Any], message: str) -> None:
    with pytest.raises(QsdError, match=message):
        check_call(sd15(), call)


def test_arguments_reach_the_call() -> None:
    options = call_options(sd15(), steps=3, guidance=1.0, chosen={"height": None}, call={"eta": 1})
    assert options["eta"] == 1
    assert options["num_inference_steps"] == 3
    assert options["guidance_scale"] == 1.0
    assert "height" not in options


def test_a_call_argument_changes_what_is_drawn(tmp_path: Path) -> None:
    pipe = stable("StableDiffusionPipeline")
    plain = latents(pipe, settings(tmp_path))
    assert torch.equal(plain, latents(pipe, settings(tmp_path, call={"eta": 0.0})))
    assert not torch.equal(plain, latents(pipe, settings(tmp_path, call={"eta": 1.0})))


def latents(pipe: Any, chosen: EvaluationSettings) -> torch.Tensor:
    return torch.cat([drawn.latents for drawn in Generator(pipe, chosen).drawings(0)])


def test_without_a_prompt(tmp_path: Path) -> None:
    pipe = unconditional()
    chosen = settings(tmp_path, prompts=False)
    drawn = next(iter(Generator(pipe, chosen).drawings(0)))
    assert drawn.images.shape == (2, 3, 8, 8)
    assert torch.equal(drawn.latents, latents(pipe, chosen))
    with pytest.raises(QsdError, match="leave prompts out"):
        Generator(pipe, settings(tmp_path))
    with pytest.raises(QsdError, match="name a file of them as prompts"):
        Generator(sd15(), chosen)
    with pytest.raises(QsdError, match="name a file of them as prompts"):
        Generator(dit(), chosen)


@pytest.mark.parametrize("cls", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_from_pictures_one_by_one(tmp_path: Path, cls: str) -> None:
    """Image i depends on picture i alone."""
    pictures(tmp_path / "pictures", masks="Inpaint" in cls)
    pipe, chosen = stable(cls), settings(tmp_path, images="Inpaint" not in cls)
    chosen = dataclasses.replace(chosen, images=str(tmp_path / "pictures"), steps=4)
    before = latents(pipe, chosen)
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "pictures" / "1.png")
    after = latents(pipe, chosen)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_what_pictures_may_not_be(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    with pytest.raises(QsdError, match="leave images out"):
        load_pictures(sd15(), str(tmp_path / "pictures"), 2)
    with pytest.raises(QsdError, match="3 images for 4"):
        load_pictures(stable("StableDiffusionImg2ImgPipeline"), str(tmp_path / "pictures"), 4)
    with pytest.raises(QsdError, match=r"add 0_mask\.png"):
        load_pictures(stable("StableDiffusionInpaintPipeline"), str(tmp_path / "pictures"), 2)


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


def test_arguments_about_text_are_heard(tmp_path: Path) -> None:
    pipe = sd15()
    plain, empty, other = (
        latents(pipe, settings(tmp_path, guidance=3.0, call=call))
        for call in ({}, {"negative_prompt": ""}, {"negative_prompt": "a thin zero"})
    )
    torch.testing.assert_close(empty, plain, rtol=1e-4, atol=1e-4)  # what is encoded where nobody asks
    assert not torch.allclose(other, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"negative_prompt": 5}, r"negative_prompt of .* cannot be 5; it is str \| list\[str\] \| None"),
        ({"original_size": "big"}, r"original_size of .* cannot be 'big'; it is tuple\[int, int\] \| None"),
        ({"prompt_embeds": 1}, "prompt_embeds of .* cannot be 1; it is Tensor"),
        ({"timesteps": "abc"}, "timesteps of .* cannot be 'abc'"),
        ({"denoising_end": "x"}, "denoising_end of .* cannot be 'x'"),
        ({"eta": float("nan")}, r"eta of .* is not finite \(nan\)"),
    ],
)
def test_values_that_the_annotations_exclude(call: dict[str, Any], message: str) -> None:
    with pytest.raises(QsdError, match=message):
        check_call(sdxl(), call)


def test_a_list_becomes_the_tuple_that_is_asked_for() -> None:
    assert check_call(sdxl(), {"original_size": [16, 8], "clip_skip": None}) == {
        "original_size": (16, 8),
        "clip_skip": None,
    }


def _controlled(cls: str) -> Any:
    pipe = sd15()
    control = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    parts = pipe.components | {"safety_checker": None, "requires_safety_checker": False}
    return getattr(diffusers, cls)(**parts, controlnet=control.eval())


def test_pictures_that_are_missing_are_asked_for(tmp_path: Path) -> None:
    pipe = _controlled("StableDiffusionControlNetPipeline")
    with pytest.raises(
        QsdError, match="if it draws from pictures, name a folder of them as images"
    ) as refused:
        next(iter(Generator(pipe, settings(tmp_path)).batches(0)))
    assert "\n" not in str(refused.value)


def test_a_pipeline_of_two_pictures_draws(tmp_path: Path) -> None:
    pipe = _controlled("StableDiffusionControlNetImg2ImgPipeline")
    (drawn, *_) = Generator(pipe, settings(tmp_path, images=True, call={"strength": 1.0})).drawings(0)
    assert len(drawn.images) == 2


def test_a_call_that_fails_inside_names_what_was_asked(tmp_path: Path) -> None:
    parts = sd15().components | {"safety_checker": None, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts)
    asked = settings(tmp_path, images=True, call={"strength": 0.01})
    with pytest.raises(QsdError, match=r"StableDiffusionImg2ImgPipeline: .*; check call \(strength\)"):
        next(iter(Generator(pipe, asked).batches(0)))


def test_infinite_pictures_are_noticed_before_they_are_cut_to_their_range(tmp_path: Path) -> None:
    pipe = sd15()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] = float("inf")
    with pytest.raises(QsdError, match="the decoded images are not finite numbers; nothing is written"):
        next(iter(Generator(pipe, settings(tmp_path)).batches(0)))


def test_too_few_steps_of_a_picture_are_said(tmp_path: Path) -> None:
    parts = sdxl().components
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    asked = settings(tmp_path, images=True, call={"strength": 0.3})
    with pytest.raises(QsdError, match=r"drew 0 images for 1; raise steps, or `strength` in call"):
        next(iter(Generator(pipe, asked).drawings(0)))


def test_what_no_setting_gives_is_asked_for_before_anything_is_drawn(tmp_path: Path) -> None:
    movq = diffusers.VQModel(latent_channels=4, num_vq_embeddings=16)
    parts = {"unet": sd15().unet, "scheduler": diffusers.DDPMScheduler(), "movq": movq}
    pipe = diffusers.KandinskyV22Pipeline(**parts)
    with pytest.raises(
        QsdError,
        match=r"needs 'image_embeds', .*safetensors file of it in call.*{image_embeds: FILE}.*or take",
    ):
        Generator(pipe, settings(tmp_path, prompts=False))


def test_a_call_that_fails_says_what_to_change(tmp_path: Path) -> None:
    pipe = diffusers.PNDMPipeline(unet=unconditional().unet, scheduler=diffusers.PNDMScheduler())
    with pytest.raises(
        QsdError, match=r"PNDMPipeline: .*; give it the steps, guidance, height, width or call"
    ):
        next(iter(Generator(pipe, settings(tmp_path, prompts=False)).drawings(0)))


def test_a_schedule_of_guidance_takes_the_place_of_the_scale() -> None:
    class Scheduled(diffusers.DDPMPipeline):
        def __call__(self, guidance_scale: float | None = None, guidance_schedule: Any = None) -> None:
            """Takes one of the two."""

    pipe, call = Scheduled(**unconditional().components), {"guidance_schedule": [1.0, 2.0]}
    assert call_options(pipe, steps=2, guidance=3.0, chosen={}, call=call) == call
    assert call_options(pipe, steps=2, guidance=3.0, chosen={}, call={}) == {"guidance_scale": 3.0}


def _wan(cls: str, **changes: Any) -> Any:
    parts = {name: part for name, part in wan().components.items() if part is not None}
    return getattr(diffusers, cls)(**parts | changes)


def test_a_package_that_cleans_prompts_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = _wan("WanVideoToVideoPipeline")
    monkeypatch.delattr(sys.modules[type(pipe).__module__], "ftfy", raising=False)
    monkeypatch.setattr(pipe, "encode_prompt", None)  # nothing is asked of it
    with pytest.raises(
        QsdError, match=r"WanVideoToVideoPipeline: cleans prompts by ftfy, .*`pip install ftfy`"
    ):
        Generator(pipe, settings(tmp_path, images=True, height=16, width=16))
    with pytest.raises(QsdError, match="name 'ftfy' is not defined; `pip install ftfy`"):
        qsd.record_inputs(_wan("WanVideoToVideoPipeline"))


def test_a_pipeline_that_takes_no_list_of_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = _wan("WanVACEPipeline", transformer=_vace())
    cleaner = SimpleNamespace(fix_text=lambda text: text)
    monkeypatch.setattr(sys.modules[type(pipe).__module__], "ftfy", cleaner, raising=False)
    asked = settings(tmp_path, height=16, width=16, num_frames=5)
    (drawn, *_) = Generator(pipe, asked).drawings(0)
    assert drawn.frames.shape[:2] == (2, 5)


def _vace() -> Any:
    config = dict(random_denoiser("wan").config)
    return diffusers.WanVACETransformer3DModel(
        **{name: config[name] for name in ("num_attention_heads", "attention_head_dim", "in_channels",
           "out_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers")},
        vace_layers=[0],
        vace_in_channels=72,
    ).eval()  # fmt: skip


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


def test_tensors_of_a_call_lie_in_a_file(tmp_path: Path) -> None:
    """A row for each image, in whatever batches it is drawn."""
    pipe = _embedded()
    rows = {name: torch.rand(3, 12) for name in ("image_embeds", "negative_image_embeds")}
    save_file(rows, tmp_path / "rows.safetensors")
    call = dict.fromkeys(rows, str(tmp_path / "rows.safetensors"))
    asked = settings(tmp_path, prompts=False, call=call, height=16, width=16)
    both = latents(pipe, asked)
    assert torch.allclose(both, latents(pipe, dataclasses.replace(asked, batch_size=1)), atol=1e-5)
    before = settings_content(asked)
    save_file(rows | {"image_embeds": rows["image_embeds"].flip(0)}, tmp_path / "rows.safetensors")
    assert settings_content(asked) != before
    assert not torch.allclose(latents(pipe, asked), both)
    with pytest.raises(QsdError, match=r"rows\.safetensors: 3 rows for 4 images; lower num_images or add"):
        Generator(pipe, dataclasses.replace(asked, num_images=4))
    save_file({"a": torch.rand(3, 12), "b": torch.rand(3, 12)}, tmp_path / "rows.safetensors")
    with pytest.raises(QsdError, match=r"has no tensor 'image_embeds' but a, b; write it again as safeten"):
        Generator(pipe, asked)
    (tmp_path / "rows.safetensors").write_text("no")
    with pytest.raises(QsdError, match=r"rows\.safetensors: no safetensors file"):
        Generator(pipe, asked)


def _embedded() -> Any:
    """Kandinsky 2.2 without its prior."""
    unet = random_denoiser(
        "sd15",
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim=12,
        encoder_hid_dim_type="image_proj",
        addition_embed_type_num_heads=2,
    )
    movq = diffusers.VQModel(
        latent_channels=4, num_vq_embeddings=16, norm_type="spatial", block_out_channels=(32,)
    )
    return diffusers.KandinskyV22Pipeline(unet=unet, scheduler=diffusers.DDPMScheduler(), movq=movq)


def test_inputs_are_recorded_from_what_the_first_image_is_drawn_from(tmp_path: Path) -> None:
    pipe = _embedded()
    rows = {name: torch.rand(3, 12) for name in ("image_embeds", "negative_image_embeds")}
    save_file(rows, tmp_path / "rows.safetensors")
    call = dict.fromkeys(rows, str(tmp_path / "rows.safetensors"))
    given = recording_call(pipe, settings(tmp_path, prompts=False, call=call, height=16))
    assert given.keys() == rows.keys() | {"height"}
    assert torch.equal(given["image_embeds"], rows["image_embeds"][:1])
    assert recording_call(pipe, None) == {}
    drawn = settings(tmp_path, images=True, call={"strength": 1.0}, width=16)
    given = recording_call(diffusers.StableDiffusionImg2ImgPipeline(**_img2img_parts()), drawn)
    assert {"prompt": PROMPTS[0], "strength": 1.0}.items() <= given.items()
    assert given["image"].size == (16, 16)
    assert "width" not in given
    with pytest.raises(QsdError, match="no argument 'streng'"):
        recording_call(pipe, dataclasses.replace(drawn, images=None, call={"streng": 1.0}))


def _img2img_parts() -> dict[str, Any]:
    return sd15().components | {"safety_checker": None, "requires_safety_checker": False}


def test_second_pictures_lie_in_a_folder(tmp_path: Path) -> None:
    pipe = _controlled("StableDiffusionControlNetImg2ImgPipeline")
    for parameter in pipe.controlnet.parameters():
        parameter.data.normal_(std=0.1)
    asked = settings(tmp_path, images=True, call={"strength": 1.0})
    same = latents(pipe, asked)
    (tmp_path / "control").mkdir()
    for index in range(2):
        Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "control" / f"{index}.png")
    other = dataclasses.replace(asked, call={"strength": 1.0, "control_image": str(tmp_path / "control")})
    assert not torch.allclose(latents(pipe, other), same)
    before = settings_content(other)
    Image.new("RGB", (16, 16), (0, 0, 0)).save(tmp_path / "control" / "1.png")
    assert settings_content(other) != before
    missing = dataclasses.replace(asked, call={"control_image": str(tmp_path / "none")})
    with pytest.raises(QsdError, match="none: no such file here"):
        Generator(pipe, missing)


class _Asking(diffusers.DDPMPipeline):
    """Notes what it is called with."""

    def __call__(
        self,
        prompt: str | None = None,
        images: list[Image.Image] | None = None,
        size: tuple[int] = (16, 16),  # type: ignore[assignment]
        generator: Any = None,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> Any:
        """Draws black pictures of one prompt."""
        assert isinstance(prompt, str)
        assert images is None or isinstance(images[0], Image.Image)
        return (np.zeros((1, 8, 8, 3), np.float32),)


def test_single_prompts_and_lists_of_pictures_are_given_as_the_call_has_them(tmp_path: Path) -> None:
    pipe = _Asking(**unconditional().components)
    assert len(latents(pipe, settings(tmp_path))) == 2
    assert len(latents(pipe, settings(tmp_path, images=True))) == 2


def test_an_annotation_that_excludes_its_own_default_is_not_believed() -> None:
    pipe = _Asking(**unconditional().components)
    assert check_call(pipe, {"size": [8, 8]}) == {"size": (8, 8)}


def test_pictures_by_any_name_that_a_call_needs() -> None:
    def call(prompt: str, reference_image: Any, mask: Any = None, masked_image_latents: Any = None) -> None:
        """Of a pipeline."""

    accepted = inspect.signature(call).parameters
    assert picture_names(accepted) == ["reference_image"]
    assert mask_name(accepted) == "mask"


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
