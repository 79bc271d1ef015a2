"""Videos and conditions that a pipeline draws from, guiders, decoders that need tiles, and refusals."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_pipelines import tiny_vae

from qsd.denoisers.components import denoisers_of
from qsd.denoisers.recording import _image_arguments
from qsd.evaluation.call import accepted_by, call_options, check_call
from qsd.evaluation.conditions import conditions_of
from qsd.evaluation.evaluator import Measurement, _check_drawn
from qsd.evaluation.given import by_content, load_given
from qsd.evaluation.meanwhile import guided, tiled, unchecked
from qsd.evaluation.pictures import load_pictures, pictures_hash
from qsd.support.errors import QsdError

SIDE = 8


class Moving:
    """A pipeline that draws from videos."""

    dtype = torch.float32

    def __call__(self, video: list[Image.Image], prompt: str = "", num_frames: int = 4) -> None: ...


class Posed:
    """One that needs a picture and a video of poses."""

    dtype = torch.float32

    def __call__(self, image: Image.Image, pose_video: list[Image.Image], mask_video: Any = None) -> None: ...


class Tensors:
    """One that takes videos as tensors."""

    def __call__(
        self, control_video: torch.FloatTensor = None, mask_video: torch.FloatTensor = None
    ) -> None: ...


@dataclasses.dataclass
class Condition:
    """What some pipelines take pictures in."""

    frames: Any
    index: int = 0


class Conditioned:
    """One that takes pictures as conditions."""

    dtype = torch.float32

    def __call__(self, conditions: Condition | list[Condition] | None = None, prompt: str = "") -> None: ...


class Still:
    """One that takes a picture."""

    def __call__(self, image: Image.Image) -> None: ...


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """One of three frames in a folder, one of two frames in an animated image."""
    folder = tmp_path / "videos"
    (folder / "a").mkdir(parents=True)
    for index in range(3):
        picture(index).save(folder / "a" / f"{index}.png")
    picture(3).save(folder / "b.webp", save_all=True, append_images=[picture(4)], lossless=True)
    return folder


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    folder = tmp_path / "stills"
    folder.mkdir()
    for index in range(2):
        picture(index).save(folder / f"{index}.png")
        Image.new("L", (SIDE, SIDE), 255).save(folder / f"{index}_mask.png")
    return folder


def test_a_folder_of_frames_and_an_animated_image_are_videos(videos: Path) -> None:
    first, second = load_pictures(Moving(), str(videos), 2)["video"]
    assert [len(first), len(second)] == [3, 2]
    assert np.array_equal(np.asarray(first[2]), np.asarray(picture(2)))
    assert np.array_equal(np.asarray(second[1]), np.asarray(picture(4)))


def test_a_picture_stands_for_all_frames_that_are_drawn(stills: Path) -> None:
    assert len(load_pictures(Moving(), str(stills), 2)["video"][0]) == 4
    assert len(load_pictures(Moving(), str(stills), 2, 6)["video"][0]) == 6


def test_all_that_a_call_needs_is_given_and_masks_of_videos_are_videos(stills: Path) -> None:
    given = load_pictures(Posed(), str(stills), 2)
    assert given.keys() == {"image", "pose_video", "mask_video"}
    assert isinstance(given["image"][0], Image.Image)
    assert len(given["pose_video"][0]) == len(given["mask_video"][0]) == 9
    assert given["mask_video"][0][0].mode == "L"


def test_a_call_may_name_videos_of_its_own(stills: Path, videos: Path) -> None:
    given = load_given(Posed(), {"pose_video": str(videos)}, 2)
    assert [len(video) for video in given["pose_video"]] == [3, 2]
    before = by_content({"pose_video": str(videos)}, 2)
    picture(9).save(videos / "a" / "2.png")
    assert by_content({"pose_video": str(videos)}, 2) != before


def test_a_video_that_is_annotated_a_tensor_is_one(stills: Path) -> None:
    given = load_pictures(Tensors(), str(stills), 2, 3)
    assert given["control_video"][0].shape == (1, 3, 3, SIDE, SIDE)
    assert 0 <= given["control_video"][0].min() < given["control_video"][0].max() <= 1
    assert given["mask_video"][0].shape == (1, 1, 3, SIDE, SIDE)
    assert (given["mask_video"][0] == 255).all()


def test_conditions_hold_pictures_and_videos(stills: Path, videos: Path) -> None:
    (condition,) = load_pictures(Conditioned(), str(stills), 2)["conditions"][0]
    assert isinstance(condition.frames, Image.Image)
    (moving,) = load_pictures(Conditioned(), str(videos), 2)["conditions"][0]
    assert len(moving.frames) == 3
    (named,) = load_given(Conditioned(), {"conditions": str(videos)}, 1)["conditions"][0]
    assert len(named.frames) == 3


def test_inputs_are_recorded_with_pictures_in_the_form_of_the_call() -> None:
    assert len(_image_arguments(accepted_by(Posed()), 16, "RGB")["pose_video"]) == 5
    assert _image_arguments(accepted_by(Tensors()), 16, "RGB")["control_video"].shape == (1, 3, 5, 16, 16)
    assert isinstance(_image_arguments(accepted_by(Conditioned()), 16, "RGB")["conditions"][0], Condition)


def test_what_is_no_picture_is_refused_in_one_line(videos: Path, stills: Path) -> None:
    with pytest.raises(QsdError, match="a: has 3 frames, and image of Still is one picture; save the one"):
        load_pictures(Still(), str(videos), 1)
    (videos / "c").mkdir()
    with pytest.raises(QsdError, match="c: holds no images; put the frames of a video into it"):
        load_pictures(Moving(), str(videos), 3)
    (stills / "0.png").write_bytes(b"not a picture")
    with pytest.raises(QsdError, match=r"0\.png: cannot be read as an image .*; get it again or remove it"):
        load_pictures(Still(), str(stills), 2)


def test_the_hash_of_pictures_sees_every_frame(videos: Path) -> None:
    before = pictures_hash(str(videos), 2)
    picture(9).save(videos / "a" / "1.png")
    assert pictures_hash(str(videos), 2) != before


def test_guidance_reaches_a_guider() -> None:
    pipe = SimpleNamespace(guider=diffusers.ClassifierFreeGuidance(guidance_scale=7.5, start=0.25))
    with guided(pipe, 2.0):
        assert (pipe.guider.guidance_scale, pipe.guider._start) == (2.0, 0.25)
    assert pipe.guider.guidance_scale == 7.5


def test_a_safety_checker_that_a_pipeline_insists_on_lets_all_pass() -> None:
    class Checker:
        def check_video_safety(self, video: Any) -> None: ...

    checker = Checker()
    pipe = SimpleNamespace(safety_checker=checker)
    with unchecked(pipe):
        assert pipe.safety_checker.to("cpu").check_text_safety("a prompt")
        assert pipe.safety_checker.check_video_safety(7) == 7
    assert pipe.safety_checker is checker
    other = SimpleNamespace(safety_checker=object())
    with unchecked(other):
        assert other.safety_checker is None


def test_a_pipeline_with_a_guider_is_given_a_negative_prompt() -> None:
    class Guided:
        guider, unet, components = diffusers.ClassifierFreeGuidance(), None, {}
        transformer = torch.nn.Linear(1, 1)

        def __call__(self, prompt: list[str], negative_prompt: list[str] | None = None) -> None: ...

    assert conditions_of(Guided(), ["a", "b"], 2.0, 2)["negative_prompt"] == ["", ""]
    assert "negative_prompt" not in conditions_of(Guided(), ["a", "b"], 1.0, 2)


def test_steps_reach_every_stage_of_a_pyramid() -> None:
    class Pyramid:
        transformer, components = torch.nn.Linear(1, 1), {}

        def __call__(self, prompt: str, pyramid_num_inference_steps_list: list[int] = [10, 10]) -> None: ...  # noqa: B006

    options = call_options(Pyramid(), steps=3, guidance=1.0, chosen={}, call={})
    assert options["pyramid_num_inference_steps_list"] == [3, 3]


def test_a_call_may_switch_off_what_may_be_none() -> None:
    class Skipping:
        def __call__(self, clip_skip: int | None = 1, decode_chunk_size: int = 1) -> None: ...

    assert check_call(Skipping(), {"clip_skip": None}) == {"clip_skip": None}
    with pytest.raises(QsdError, match="decode_chunk_size of Skipping is a int"):
        check_call(Skipping(), {"decode_chunk_size": None})


def test_a_decoder_that_needs_tiles_gets_them() -> None:
    vae = tiny_vae()
    pipe = SimpleNamespace(vae=vae)
    refused = NotImplementedError("Decoding without tiling has not been implemented yet.")
    assert not tiled(pipe, RuntimeError("another"))
    assert tiled(pipe, refused)
    assert vae.use_tiling
    assert not tiled(pipe, refused)


def test_full_precision_that_draws_nothing_is_refused() -> None:
    black = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    with pytest.raises(QsdError, match=r"one colour or silence.*raise height, width and num_frames"):
        _check_drawn(Measurement({}, black, black.float(), black))
    drawn = black.clone()
    drawn[0, 0, 0, 0] = 2
    _check_drawn(Measurement({}, drawn, drawn.float(), drawn))
    _check_drawn(Measurement({}, black, black.float(), black, drawn))


@pytest.mark.parametrize("name", ["LLaDA2Pipeline", "DiffusionGemmaPipeline"])
def test_language_models_are_refused_in_one_line(name: str) -> None:
    part = "tokenizer" if name.startswith("LLaDA") else "processor"
    pipe = getattr(diffusers, name)(
        model=torch.nn.Linear(1, 1), scheduler=diffusers.BlockRefinementScheduler(), **{part: None}
    )
    with pytest.raises(QsdError, match=r"has no denoiser among its components.*; give a pipeline with"):
        denoisers_of(pipe)


def test_upsamplers_of_latents_are_refused_in_one_line() -> None:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    sizes = {"in_channels": 4, "mid_channels": 32, "num_blocks_per_stage": 1}
    pipe = diffusers.LTXLatentUpsamplePipeline(vae=None, latent_upsampler=LTXLatentUpsamplerModel(**sizes))
    with pytest.raises(QsdError, match=r"has no denoiser among its components.*; give a pipeline with"):
        denoisers_of(pipe)
