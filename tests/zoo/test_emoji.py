"""The emoji: the shipped files are the ones that were made, nothing held out was seen, folders are stock."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageClassification

from qsd.cli import main
from qsd.support.errors import QsdError
from qsd.support.paths import shipped_root
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.classifier import classify
from qsd.zoo.diffusion import Recipe
from qsd.zoo.emoji import archives, videos
from qsd.zoo.emoji.dataset import CLASSES, FILES, STYLES, caption, class_of, load_emoji, read_index
from qsd.zoo.emoji.flux import Flux
from qsd.zoo.emoji.text import TEXT_LENGTH, VIDEO_TEXT_LENGTH, emoji_bert_tokenizer, emoji_t5_tokenizer
from qsd.zoo.emoji.train import train_emoji
from qsd.zoo.optimization import MovingAverage, fit

DATA = shipped_root() / "datasets" / "emoji"
CHECKPOINTS = shipped_root() / "checkpoints"
SHA256 = {
    "images.safetensors": "bb67b44c60277bac5d2342778713830aec95b3749088bc9790b115dbff748cab",
    "held_out.safetensors": "0079389795d93bd4d53466e33776fc7b860e165009acfdcbd0ec281460afd668",
    "more.safetensors": "95394fbaf0f279e78290f8a62182af32e7a4e10f4ff1713553aeff2455d1e46b",
    "index.csv": "9615177854af60e6808e07802aaacf5785607690cf2cf6aebae3371bc76e6a94",
    "prompts.txt": "b7c2f677fd3183f2424b5f09eac29a43b6dd00a26ccde4c86f5647dba20ed393",
    "classes.txt": "b6f9655ae7d2c190538bc58448e451f12425729d3465aa24522211e6579a4d56",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_shipped_files_are_those_that_the_models_were_trained_on(name: str) -> None:
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == SHA256[name]


def test_the_index_has_a_line_for_every_picture() -> None:
    index = read_index(DATA / "index.csv")
    for file in FILES:
        images = load_file(DATA / f"{file}.safetensors")["images"]
        assert images.dtype == torch.uint8
        assert images.shape == (sum(entry.file == file for entry in index), 3, 32, 32)
    assert len({caption(entry) for entry in index}) == len(index)
    assert len(load_emoji()) == len(index)


def test_nothing_held_out_is_trained_on_in_either_style() -> None:
    index = read_index(DATA / "index.csv")
    styles: dict[str, list[str]] = {}
    for entry in index:
        styles.setdefault(entry.code, []).append(entry.style)
    assert all(found == list(STYLES) for found in styles.values())
    held_out = {entry.code for entry in index if entry.held_out}
    seen = {entry.code for entry in index if not entry.held_out}
    assert not held_out & seen
    assert {entry.code for entry in index if entry.file == "held_out"} <= held_out
    assert not {entry.code for entry in index if entry.file == "images"} & held_out
    assert 0.08 < len(held_out) / len(styles) < 0.12


def test_no_skin_tones_and_no_joined_people() -> None:
    tones = {f"1f3f{letter}" for letter in "bcdef"}
    for entry in read_index(DATA / "index.csv"):
        assert not tones & set(entry.code.split("-"))
        assert "200d" not in entry.code.split("-") or entry.category != "People & Body"


def test_prompts_ask_for_pictures_of_training_and_name_their_classes() -> None:
    emoji = {caption(entry): entry for entry in load_emoji(["images"]).emoji}
    texts = (DATA / "prompts.txt").read_text().splitlines()
    classes = [int(line) for line in (DATA / "classes.txt").read_text().split()]
    assert [class_of(emoji[text]) for text in texts] == classes
    assert len(set(texts[: len(emoji)])) == len(emoji)  # every emoji once before any comes again


def test_tokenizers_know_every_word_and_the_longest_caption_fits() -> None:
    captions = load_emoji().captions
    bert, t5 = emoji_bert_tokenizer(), emoji_t5_tokenizer()
    for tokenizer in (bert, t5):
        ids = tokenizer(captions).input_ids
        assert max(map(len, ids)) <= TEXT_LENGTH
        assert not any(tokenizer.unk_token_id in row for row in ids)
    moving = t5(videos.video_captions(captions)).input_ids
    assert max(map(len, moving)) <= VIDEO_TEXT_LENGTH
    assert not any(t5.unk_token_id in row for row in moving)


def test_a_growing_picture_grows_and_a_turning_one_turns() -> None:
    picture = torch.ones(1, 3, 32, 32)
    picture[..., :16, 12:20] = -1.0  # a bar that points up
    growing, turning, sliding = videos.animate(picture)
    assert growing.shape == (3, videos.FRAMES, 16, 16)
    ink = (1 - growing[0]).sum((1, 2))
    assert (ink.diff() > 0).all()
    assert torch.allclose(growing[:, -1], turning[:, 0])
    assert torch.allclose(turning[:, -1], turning[:, 0].rot90(-1, (1, 2)), atol=1e-4)
    columns = torch.arange(16.0)
    middle = [float(((1 - frame) * columns).sum() / (1 - frame).sum()) for frame in sliding[0]]
    assert middle == sorted(middle)


def _archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _picture(color: tuple[int, int, int, int], size: int, form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", (size, size), color).save(stream, form, lossless=True)
    return stream.getvalue()


def _entry(code: str, name: str, short: str, category: str) -> dict[str, str]:
    return {"unified": code, "name": name, "short_name": short, "category": category}


@pytest.fixture
def npm_archives(tmp_path: Path) -> tuple[Path, Path]:
    entries = [
        _entry("1F98A", "FOX FACE", "fox_face", "Animals & Nature"),
        _entry("1F602", "FACE WITH TEARS OF JOY", "joy", "Smileys & Emotion"),
        _entry("1F680", "ROCKET", "rocket", "Travel & Places"),
        _entry("1F1E9-1F1EA", "Germany Flag", "de", "Flags"),
        _entry("1F469-200D-1F680", "WOMAN ASTRONAUT", "astronaut", "People & Body"),
        _entry("1FAE9", "NO PICTURE", "no_picture", "Smileys & Emotion"),
    ]
    codes = [entry["unified"].lower() for entry in entries[:5]]
    red, half = (255, 0, 0, 255), (0, 0, 255, 128)
    fluent = {f"package/assets/{code}.webp": _picture(red, 256, "WEBP") for code in codes}
    google = {f"package/img/google/64/{code}.png": _picture(half, 64, "PNG") for code in codes}
    google["package/emoji.json"] = json.dumps(entries).encode()
    return _archive(tmp_path / "fluent.tgz", fluent), _archive(tmp_path / "google.tgz", google)


def test_the_command_writes_the_data_of_two_archives(npm_archives: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "emoji"
    fluent, google = map(str, npm_archives)
    code = main(["zoo", "data", "emoji", "--fluent", fluent, "--google", google, "--out", str(out)])
    assert code in (0, None)
    index = read_index(out / "index.csv")
    assert [caption(entry) for entry in index] == [
        f"{name}, {style}" for name in ("joy", "rocket", "fox face") for style in STYLES
    ]
    images = load_file(out / "images.safetensors")["images"]
    assert images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert images[1, :, 0, 0].tolist() == [127, 127, 255]  # half transparent blue on white
    assert (out / "classes.txt").read_text().splitlines()[0] in {str(n) for n in range(len(CLASSES))}


def test_archives_that_are_none_are_refused(npm_archives: tuple[Path, Path], tmp_path: Path) -> None:
    fluent, google = npm_archives
    broken = tmp_path / "broken.tgz"
    broken.write_bytes(b"no archive")
    for first, second, words in (
        (broken, google, "broken.tgz: no npm archive"),
        (tmp_path / "none.tgz", google, "none.tgz: no npm archive"),
        (google, fluent, "emoji-datasource-google"),
    ):
        with pytest.raises(QsdError, match=words):
            archives.write_data(first, second, tmp_path / "out")
    assert main(["zoo", "data", "emoji"]) == 2
    assert main(["zoo", "data", "kittens"]) == 2


def _train(resume: Path, stop_after: int | None = None) -> torch.Tensor:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    average = MovingAverage(model, 0.9)

    def draw() -> tuple[torch.Tensor, ...]:
        return (torch.randn(4, 8),)

    class KilledError(Exception):
        pass

    def progress(step: int, steps: int, message: str) -> None:
        if step == stop_after:
            raise KilledError

    try:
        fit(
            model.parameters(),
            draw,
            lambda x: (model(x) - x).square().mean(),
            steps=40,
            learning_rate=0.01,
            matrices=[model[0].weight],
            average=average,
            resume=resume,
            progress=progress,
            message="",
        )
    except KilledError:
        return torch.zeros(0)
    average.load()
    return nn.utils.parameters_to_vector(model.parameters())


def test_a_killed_training_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsd.zoo.optimization._SAVE_SECONDS", 0.0)
    whole = _train(tmp_path / "whole")
    resume = tmp_path / "resume"
    assert len(_train(resume, stop_after=20)) == 0
    assert resume.exists()
    assert torch.equal(_train(resume), whole)
    assert not resume.exists()


def test_a_training_does_not_resume_from_another(tmp_path: Path) -> None:
    resume = tmp_path / "other.training"
    torch.save({"tensors": [torch.zeros(3)]}, resume)
    with pytest.raises(QsdError, match=r"other\.training: cannot resume"):
        _train(resume)


def test_held_out_rows_are_selected_with_their_entries() -> None:
    emoji = load_emoji(["held_out"])
    some = emoji.where(torch.tensor([True, False] * (len(emoji) // 2)))
    assert torch.equal(some.images, emoji.images[::2])
    assert some.emoji == emoji.emoji[::2]
    assert np.array_equal(some.classes, [class_of(entry) for entry in some.emoji])


def test_the_classifier_tells_styles_apart_that_it_never_saw() -> None:
    model = AutoModelForImageClassification.from_pretrained(CHECKPOINTS / "emoji-classifier").eval()
    emoji = load_emoji()
    unseen = emoji.where(emoji.held_out)
    found = classify(model, to_pixels(unseen.images))
    assert (found % 2 == unseen.classes % 2).float().mean() >= 0.9
    assert (found == unseen.classes).float().mean() >= 0.5
    assert model.config.id2label[0] == CLASSES[0]


def test_flux_opens_in_stock_diffusers_and_draws_what_is_asked_for() -> None:
    pipe = DiffusionPipeline.from_pretrained(CHECKPOINTS / "emoji-flux", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    known = load_emoji(["images"])
    prompts = ["fox face, flat", "grinning face, 3d", "red apple, 3d", "seedling, flat"]
    torch.manual_seed(0)
    drawn = pipe(
        prompts, height=32, width=32, max_sequence_length=12, num_inference_steps=8, output_type="pt"
    ).images
    assert drawn.shape == (4, 3, 32, 32)
    real = known.images[[known.captions.index(prompt) for prompt in prompts]] / 255
    error = (drawn[:, None] - real[None]).square().mean((2, 3, 4))
    assert error.argmin(1).tolist() == [0, 1, 2, 3], "each is nearest to the picture of its own caption"
    size = sum(file.stat().st_size for file in (CHECKPOINTS / "emoji-flux").rglob("*") if file.is_file())
    assert size <= 8_000_000


def test_a_few_steps_make_a_working_folder(tmp_path: Path) -> None:
    class Quick(Flux):
        recipe = Recipe(((2, 1e-3),), batch=4)

    facts = train_emoji(Quick, tmp_path / "flux", device=torch.device("cpu"))
    assert facts["loss"] > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "flux"]
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "flux")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("taco, 3d", height=32, width=32, max_sequence_length=12, num_inference_steps=1).images[0]
    assert image.size == (32, 32)
