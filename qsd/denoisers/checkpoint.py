"""The weights of a model folder, read one by one and not kept."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from qsd.support.errors import QsdError, first_line

_NAMES = ("diffusion_pytorch_model", "model")


class Checkpoint:
    """A folder of safetensors, one file or shards, whose tensors are read when they are asked for.

    Attributes:
        folder: the folder of one model.
        shapes: by name, the shape of every tensor.
    """

    def __init__(self, folder: Path, variant: str | None = None) -> None:
        """Reads the headers.

        Args:
            folder: of one model, as ``save_pretrained`` writes it.
            variant: part of the names of its files, such as fp16; where there is none of that name, the files
                without one are taken, as diffusers does.

        Raises:
            QsdError: there are no safetensors, or a file is missing or damaged.
        """
        self.folder = folder
        self._files = _files(folder, variant) or _files(folder, None)
        if not self._files:
            raise QsdError(f"{folder}: has no safetensors; save it again with safe_serialization=True")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._holder: dict[str, Path] = {}
        for path in self._files:
            try:
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 (no mapping)
                        self.shapes[name] = tuple(file.get_slice(name).get_shape())
                        self._holder[name] = path
            except (SafetensorError, OSError) as error:
                raise QsdError(f"{path}: truncated or damaged ({first_line(error)})") from error

    def read(self, name: str) -> torch.Tensor:
        """A tensor in memory of its own; the file is closed again, which gives back what was mapped of it."""
        with safe_open(self._holder[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name).clone()
        return tensor


def _files(folder: Path, variant: str | None) -> list[Path]:
    """The files of a variant; none if it has no complete set."""
    part = f".{variant}" if variant else ""
    for name in _NAMES:
        single = folder / f"{name}{part}.safetensors"
        if single.is_file():
            return [single]
        index = folder / f"{name}.safetensors.index{part}.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return [folder / shard for shard in shards]
    return []


def only_variant(pipeline: Path) -> str | None:
    """The variant, such as fp16, of a pipeline folder where a component has files of that variant alone."""
    found: dict[Path, set[str]] = {}
    for path in pipeline.glob("*/*.safetensors"):
        name, *variant = path.name.removesuffix(".safetensors").split(".")
        if name.partition("-")[0] in _NAMES and len(variant) < 2:
            found.setdefault(path.parent, set()).add(variant[0].partition("-0")[0] if variant else "")
    alone = {variant for variants in found.values() if "" not in variants for variant in variants}
    return alone.pop() if len(alone) == 1 else None
