"""Real images are read rightly or refused in one line that names the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from qsd.evaluation.images import open_images, read_image
from qsd.support.errors import QsdError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def test_a_folder_without_what_is_hidden(tmp_path: Path) -> None:
    others = [PIXELS, 255 - PIXELS, PIXELS // 2]
    (tmp_path / "sub").mkdir()
    for name, pixels in zip(("a.png", "b.bmp", "sub/c.tiff"), others, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    for hidden in (".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png", ".d.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no image")
    images = open_images(str(tmp_path))
    read = list(images.batches(2))
    assert [len(batch) for batch in read] == [2, 1]
    np.testing.assert_array_equal(torch.cat(read).permute(0, 2, 3, 1).numpy(), np.stack(others))


def test_files_that_are_left_out_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.PNG"):
        Image.new("L", (4, 4)).save(tmp_path / name, format="png")
    assert len(open_images(str(tmp_path))) == 2
    assert not caplog.text
    for name in ("c.heic", "d.txt", "e.txt", ".hidden.txt"):
        (tmp_path / name).write_text("no image")
    assert len(open_images(str(tmp_path))) == 2
    assert "3 files are left out (*.heic, *.txt); images end in .png" in caplog.text


def test_the_hash_is_of_content(tmp_path: Path) -> None:
    for folder, names in (("one", "ab"), ("two", "xy")):
        (tmp_path / folder).mkdir()
        for name, pixels in zip(names, (PIXELS, 255 - PIXELS), strict=True):
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    one, two = (open_images(str(tmp_path / folder)).content_hash() for folder in ("one", "two"))
    assert one == two
    Image.fromarray(PIXELS + 1).save(tmp_path / "two" / "x.png")
    assert open_images(str(tmp_path / "two")).content_hash() != one


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    wide = np.array([[0, 257, 128 * 257], [65535, 300, 1]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    expected = np.array([[0, 1, 128], [255, 1, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(
        read_image(tmp_path / "wide.png"), np.repeat(expected[..., None], 3, axis=2)
    )


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(PIXELS, -1))


def test_a_name_is_no_format(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), PIXELS)


def _float_tiff(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(path, format="TIFF")


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:5000])


def _transparent(path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(path, format="PNG")


def _animated(path: Path) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def _vast(path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_float_tiff, "has float pixels, whose range nothing tells; save it in 8 bits"),
        (_truncated, "damaged .*; get the file again or remove it"),
        (_transparent, "is partly transparent; save it on the background"),
        (_animated, "has 2 frames; save the one that is meant"),
        (_vast, "exceeds limit .*; resize it"),
        (lambda path: path.write_text("<html>"), "no image, whatever its name says"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "`git lfs pull`"),
    ],
)
def test_refused_images(tmp_path: Path, make: object, message: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    make(tmp_path / "odd.png")  # type: ignore[operator]
    with pytest.raises(QsdError, match=rf"odd\.png: .*{message}") as refused:
        list(open_images(str(tmp_path)).batches(4))
    assert "\n" not in str(refused.value)


def test_other_sizes_and_too_few(tmp_path: Path) -> None:
    with pytest.raises(QsdError, match="holds no images"):
        open_images(str(tmp_path))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(QsdError, match="1 image; a distribution needs 2"):
        open_images(str(tmp_path))
    Image.fromarray(PIXELS[:5]).save(tmp_path / "b.png")
    with pytest.raises(QsdError, match=r"b\.png: 4x5 pixels, but a\.png has 4x6; resize"):
        list(open_images(str(tmp_path)).batches(1))


def test_tensors(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    grey = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8)
    save_file({"images": grey}, path)
    assert torch.equal(torch.cat(list(open_images(str(path)).batches(2))), grey.expand(-1, 3, -1, -1))
    for tensors, message in (
        ({"images": grey.float() / 255}, r"`images` are F32, not uint8"),
        ({"images": grey.permute(0, 2, 3, 1).contiguous()}, r"of shape \[5, 4, 4, 1\].*permute"),
        ({"images": grey[0]}, r"of shape \[1, 4, 4\]"),
        ({"pictures": grey}, "holds no `images`, but pictures"),
    ):
        save_file(tensors, path)
        with pytest.raises(QsdError, match=message):
            open_images(str(path))
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(QsdError, match="`git lfs pull`"):
        open_images(str(path))
