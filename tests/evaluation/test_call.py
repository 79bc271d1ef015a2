"""What a pipeline is called with is checked first, and reaches it."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from support.drawing import latents, settings, stable
from support.tiny_pipelines import (
    PROMPTS,
    dit,
    random_denoiser,
    sd15,
    sdxl,
    unconditional,
)
from support.unseen_pipelines import wan

import qsd
from qsd.evaluation.call import call_options, check_call
from qsd.evaluation.content import settings_content
from qsd.evaluation.generate import Generator
from qsd.evaluation.recording_call import recording_call
from qsd.support.errors import QsdError


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
