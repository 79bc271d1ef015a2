"""The files of an export: safetensors of at most 5 GB with an index, compared with their content hashes."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qsd.export.folder import CONFIG_NAME, write_json
from qsd.support.documents import parse_json, read_bounded
from qsd.support.errors import QsdError, first_line
from qsd.support.hashing import json_hash, verification, verifying
from qsd.support.tensors import tensor_hash

MAX_SHARD_SIZE = "5GB"
_REMEDY = "export it again"


@dataclasses.dataclass(frozen=True)
class Check:
    """What was compared with its hash.

    Attributes:
        folder: of the denoiser.
        files: number of safetensors files.
        tensors: number of tensors.
        num_bytes: of these files.
    """

    folder: Path
    files: int
    tensors: int
    num_bytes: int


def write_shards(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    variant: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> int:
    """Writes tensors in diffusers' layout.

    Args:
        folder: of the denoiser.
        tensors: by name, contiguous, on the CPU.
        variant: part of the file names, as in ``from_pretrained(variant=...)``.
        max_shard_size: of a file, in bytes or as "5GB".

    Returns:
        Bytes of all safetensors files.

    Raises:
        QsdError: the size is none.
    """
    _check_size(max_shard_size)
    try:
        split = split_torch_state_dict_into_shards(
            dict(tensors),
            filename_pattern=_with_variant(SAFETENSORS_WEIGHTS_NAME, variant).replace(
                ".safetensors", "{suffix}.safetensors"
            ),
            max_shard_size=max_shard_size,
        )
    except ValueError:
        raise _no_size(max_shard_size) from None
    for name, keys in split.filename_to_tensors.items():
        save_file({key: tensors[key] for key in keys}, folder / name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / _with_variant(SAFE_WEIGHTS_INDEX_NAME, variant), index)
    return sum((folder / name).stat().st_size for name in split.filename_to_tensors)


def _check_size(size: Any) -> None:
    """Refuses what is no size, or none that a file can have; other texts are parsed by the hub's library."""
    if isinstance(size, str):
        fits = re.match(r"0*[1-9]", size) is not None
    else:
        fits = isinstance(size, int) and not isinstance(size, bool) and size > 0
    if not fits:
        raise _no_size(size)


def _no_size(size: Any) -> QsdError:
    return QsdError(f"max_shard_size {size!r}: give bytes, or a text such as '5GB'")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a denoiser's folder.

    Raises:
        QsdError: it differs from the hash in it.
    """
    place = folder / CONFIG_NAME
    config: dict[str, Any] = parse_json(read_bounded(place), place, _REMEDY)
    entry = config["quantization_config"]
    noted = entry.get("hash")
    if noted is not None and verifying():
        own = {key: value for key, value in entry.items() if key != "hash"}
        if json_hash(config | {"quantization_config": own}) != noted:
            raise QsdError(
                f"{place}: differs from the hash that its writer noted (damaged or edited); {_REMEDY}"
            )
    return config


def check_files(folder: Path, config: Mapping[str, Any], variant: str | None = None) -> int:
    """Refuses files that are not what was written, before anything is built of them.

    Args:
        folder: of the denoiser.
        config: its config.json.
        variant: of the files.

    Returns:
        Number of tensors.

    Raises:
        QsdError: a file is missing, truncated or damaged.
    """
    entry = config["quantization_config"]
    hashes: dict[str, str] = entry.get("hashes", {})
    found: dict[str, Path] = {}
    for path in shard_files(folder, variant):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    found[name] = path
                    if name in hashes and verifying() and tensor_hash(file.get_tensor(name)) != hashes[name]:
                        raise QsdError(f"{path}: tensor '{name}' differs from its hash (damaged); {_REMEDY}")
        except (SafetensorError, OSError) as error:
            raise QsdError(f"{path}: truncated or damaged ({first_line(error)}); {_REMEDY}") from error
    differing = sorted(set(found) ^ set(hashes)) if entry.get("hash") is not None else []
    if differing:
        name = differing[0]
        place = found.get(name, next(iter(found.values()), folder))
        what = "is missing" if name in hashes else f"is not listed in {CONFIG_NAME}"
        raise QsdError(f"{place}: tensor '{name}' {what}; {_REMEDY}")
    if len(set(found.values())) > 1:
        index = folder / _with_variant(SAFE_WEIGHTS_INDEX_NAME, variant)
        placed = {(name, path.name) for name, path in found.items()}
        misplaced = sorted(placed ^ set(_weight_map(index).items()))
        if misplaced:
            raise QsdError(f"{index}: tensor '{misplaced[0][0]}' is not where it says; {_REMEDY}")
    return len(found)


def check_shards(folder: Path, variant: str | None = None) -> Check:
    """Compares every tensor, and config.json, with the hashes that were written with them.

    Args:
        folder: of the denoiser.
        variant: of the files.

    Raises:
        QsdError: a file is missing, truncated or damaged, or there are no hashes.
    """
    with verification(True):
        config = read_config(folder)
        if config["quantization_config"].get("hash") is None:
            raise QsdError(
                f"{folder / CONFIG_NAME}: carries no hashes (diffusers' save_pretrained writes none); "
                "write it with `qsd export` to be able to check it"
            )
        count = check_files(folder, config, variant)
    files = shard_files(folder, variant)
    return Check(folder, len(files), count, sum(path.stat().st_size for path in files))


def shard_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a denoiser's folder.

    Raises:
        QsdError: there is none, the index is damaged, or a file that it names is missing.
    """
    single = folder / _with_variant(SAFETENSORS_WEIGHTS_NAME, variant)
    index = folder / _with_variant(SAFE_WEIGHTS_INDEX_NAME, variant)
    if not index.is_file():  # which diffusers looks for first
        if single.is_file():
            return [single]
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        if any(name.startswith(f"{single.stem}-") for name in others):
            raise QsdError(f"{index}: is missing; copy all files of the export or export again")
        remedy = f"name the variant of {others[0]}" if others and not variant else "export again"
        raise QsdError(
            f"{single}: is missing; {remedy}" + (f" or leave variant {variant!r} out" if variant else "")
        )
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise QsdError(f"{folder / name}: is missing; copy all files of the export or export again")
    return [folder / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    """Name of a tensor -> file."""
    try:
        found = {str(name): str(file) for name, file in json.loads(index.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QsdError(f"{index}: damaged ({first_line(error)}); {_REMEDY}") from error
    return found


def _with_variant(name: str, variant: str | None) -> str:
    """``x.safetensors`` -> ``x.VARIANT.safetensors``, where diffusers looks for it."""
    if not variant:
        return name
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}"
