"""Opens an exported denoiser, whatever its class, with errors that name the file and the remedy."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from qsd.denoisers.components import Denoisers
from qsd.export.folder import CONFIG_NAME, exports_in, is_export, is_recipe
from qsd.export.hub import local_copy
from qsd.export.shards import Check, check_files, check_shards, read_config
from qsd.runtime.registration import register
from qsd.support.documents import parse_json, read_bounded
from qsd.support.errors import QsdError, first_line
from qsd.support.folders import restore
from qsd.support.hashing import verification, verifying


def load_export(
    folder: str | Path,
    *,
    denoiser: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    verify: bool = True,
    variant: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """The quantized denoiser of an export, from a folder or a hub.

    The same as ``from_pretrained`` of the class that ``config.json`` names, with the files' state checked
    first. Only safetensors and JSON files are read.

    Args:
        folder: what was given to :func:`qsd.export.export`, the denoiser's folder in it, or a hub id.
        denoiser: name of the component to open, where several were exported.
        device: where it runs.
        dtype: of the computation and of everything that is not packed.
        verify: compare every tensor and config.json with their content hashes first.
        variant: of the files, as ``from_pretrained`` takes it.
        subfolder: where in the folder or repository the export is.
        revision: branch, tag or commit of a repository on a hub.
        token: of the hub.
        local_files_only: use only what was downloaded before.

    Returns:
        The denoiser in evaluation mode, holding packed codes; where several were exported and none is named,
        all of them as :class:`qsd.denoisers.components.Denoisers`.

    Raises:
        QsdError: no export, a damaged one, or one of another format version.
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise QsdError(f"load_export: dtype {dtype!r} is no type to compute in, such as torch.bfloat16")
    path = Path(folder)
    if not path.exists() and isinstance(folder, str):
        path = local_copy(folder, revision=revision, token=token, local_files_only=local_files_only)
    folders = denoiser_folders(path / (subfolder or ""), denoiser)
    opened = {path.name: _opened(path, device, dtype, verify, variant) for path in folders}
    return Denoisers(opened) if len(opened) > 1 else next(iter(opened.values()))


def check_export(folder: str | Path, *, variant: str | None = None) -> list[Check]:
    """Compares all tensors of an export, and its config.json, with their content hashes.

    Args:
        folder: what was given to :func:`qsd.export.export`, or the denoiser's folder in it.
        variant: of the files.

    Returns:
        What was compared, per denoiser.

    Raises:
        QsdError: no export, or a file of it is missing, damaged, or carries no hashes.
    """
    return [check_shards(path, variant) for path in denoiser_folders(Path(folder), None)]


def _opened(
    folder: Path, device: str | torch.device, dtype: torch.dtype, verify: bool, variant: str | None
) -> nn.Module:
    with verification(verify and verifying()):
        config = read_config(folder)
        check_files(folder, config, variant)
    model_class: Any = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(model_class, type) and issubclass(model_class, diffusers.ModelMixin)):
        raise QsdError(
            f"{folder / CONFIG_NAME}: diffusers {diffusers.__version__} has no class "
            f"{config.get('_class_name')!r}; install a version that has it"
        )
    register()
    with verification(False):  # that is done
        try:
            model = model_class.from_pretrained(
                folder, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
            )
        except QsdError as error:
            raise QsdError(f"{folder}: {error}") from error
        except Exception as error:  # diffusers raises many kinds; all mean "cannot open"
            raise QsdError(f"{folder}: cannot be opened ({first_line(error)}); export it again") from error
    return model.requires_grad_(False).to(device)


def denoiser_folders(folder: Path, denoiser: str | None) -> list[Path]:
    restore(folder)
    if is_export(folder):
        return [folder]
    names = exports_in(folder)
    if denoiser is not None and denoiser not in names:
        raise QsdError(
            f"{folder}: holds no exported denoiser {denoiser!r}; it has {', '.join(names) or 'none'}"
        )
    if not names:
        if folder.is_dir() and any(map(is_recipe, (folder, *folder.iterdir()))):
            raise QsdError(
                f"{folder}: is an export for other programs, without hashes; its README.md says how it is "
                "opened, and `qsd export --format qsd` writes what qsd opens and checks"
            )
        for place in (folder / CONFIG_NAME, *sorted(folder.glob(f"*/{CONFIG_NAME}"))):
            if place.is_file():
                parse_json(read_bounded(place), place, "export it again")
        what = "holds no denoiser exported by qsd" if folder.is_dir() else "no such folder"
        raise QsdError(f"{folder}: {what}; write one with `qsd export --out {folder}`")
    return [folder / name for name in names if denoiser in (None, name)]
