"""Pictures that a call draws from."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support.drawing import latents, pictures, settings, stable
from support.tiny_pipelines import (
    sd15,
    sdxl,
    unconditional,
)

from qsd.denoisers.pictured import mask_name, picture_names
from qsd.evaluation.call import check_call
from qsd.evaluation.content import settings_content
from qsd.evaluation.generate import Generator
from qsd.evaluation.pictures import load_pictures
from qsd.support.errors import QsdError


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


def test_too_few_steps_of_a_picture_are_said(tmp_path: Path) -> None:
    parts = sdxl().components
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    asked = settings(tmp_path, images=True, call={"strength": 0.3})
    with pytest.raises(QsdError, match=r"drew 0 images for 1; raise steps, or `strength` in call"):
        next(iter(Generator(pipe, asked).drawings(0)))


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
