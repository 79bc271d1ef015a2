"""Checkpoint folders as they are shipped: whole or not at all, and free of the maker's machine."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from qsd.export.folder import strip_paths
from qsd.zoo.digits import IMAGE_SIZE


def write_folder(out: Path, save: Callable[[Path], None]) -> int:
    """Saves into a folder beside ``out``, cleans it and puts it in the place of ``out``.

    Returns:
        Bytes of all files.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        save(folder)
        strip_paths(folder)
        for file in folder.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def write_image_processor(folder: Path, image_processor_type: str, size: int = IMAGE_SIZE) -> None:
    """Writes the stock preprocessing of small square images: to [-1, 1], nothing else.

    The file is written by hand because the class that would save it needs torchvision.
    """
    settings = {
        "image_processor_type": image_processor_type,
        "do_resize": False,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": size, "width": size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
