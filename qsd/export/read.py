"""Opens an exported denoiser, whatever its class, with errors that name the file and the remedy."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn

from qsd.denoisers.components import Denoisers
from qsd.export.folder import CONFIG_NAME, exports_in, is_export
from qsd.runtime.registration import register
from qsd.support.documents import parse_json, read_bounded
from qsd.support.errors import QsdError, first_line
from qsd.support.folders import restore
from qsd.support.hashing import json_hash, verifying
from qsd.support.tensors import tensor_hash

_REMEDY = "export it again"


def load_export(
    folder: str | Path,
    *,
    denoiser: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The quantized denoiser of an export.

    The same as ``from_pretrained`` of the class that ``config.json`` names, with the file's state checked
    first.

    Args:
        folder: what was given to :func:`qsd.export.export`, or the denoiser's folder in it.
        denoiser: name of the component to open, where several were exported.
        device: where it runs.
        dtype: of the computation and of everything that is not packed.

    Returns:
        The denoiser in evaluation mode, holding packed codes; where several were exported and none is named,
        all of them as :class:`qsd.denoisers.components.Denoisers`.

    Raises:
        QsdError: no export, a damaged one, or one of another format version.
    """
    folders = denoiser_folders(Path(folder), denoiser)
    opened = {path.name: _opened(path, device, dtype) for path in folders}
    return Denoisers(opened) if len(opened) > 1 else next(iter(opened.values()))


def _opened(folder: Path, device: str | torch.device, dtype: torch.dtype) -> nn.Module:
    place = folder / CONFIG_NAME
    config = parse_json(read_bounded(place), place, _REMEDY)
    _check_hashes(config, folder)
    model_class = getattr(diffusers, config.get("_class_name") or "", None)
    if model_class is None:
        raise QsdError(
            f"{folder / CONFIG_NAME}: diffusers {diffusers.__version__} has no class "
            f"{config.get('_class_name')!r}; install a version that has it"
        )
    register()
    try:
        model = model_class.from_pretrained(folder, torch_dtype=dtype)
    except QsdError as error:
        raise QsdError(f"{folder}: {error}") from error
    except Exception as error:  # diffusers raises many kinds; all mean "cannot open"
        raise QsdError(f"{folder}: cannot be opened ({first_line(error)}); export it again") from error
    return model.requires_grad_(False).to(device)


def _check_hashes(config: dict[str, Any], folder: Path) -> None:
    """Refuses an export that is not what was written, before anything is built of it."""
    entry = config["quantization_config"]
    noted, hashes = entry.get("hash"), entry.get("hashes", {})
    if noted is not None and verifying():
        own = {key: value for key, value in entry.items() if key != "hash"}
        if json_hash(config | {"quantization_config": own}) != noted:
            raise QsdError(
                f"{folder / CONFIG_NAME}: differs from the hash that its writer noted (damaged or edited); "
                f"{_REMEDY}"
            )
    file = folder / SAFETENSORS_WEIGHTS_NAME
    if not file.is_file():
        return
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            differing = sorted(set(names) ^ set(hashes)) if noted is not None else []
            if differing:
                what = "is missing" if differing[0] in hashes else f"is not listed in {CONFIG_NAME}"
                raise QsdError(f"{file}: tensor '{differing[0]}' {what}; {_REMEDY}")
            for name in names if noted is not None and verifying() else ():
                if tensor_hash(opened.get_tensor(name)) != hashes[name]:
                    raise QsdError(f"{file}: tensor '{name}' differs from its hash (damaged); {_REMEDY}")
    except (SafetensorError, OSError) as error:
        raise QsdError(f"{file}: truncated or damaged ({first_line(error)}); {_REMEDY}") from error


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
        raise QsdError(
            f"{folder}: holds no denoiser exported by qsd; write one with `qsd export --out {folder}`"
        )
    return [folder / name for name in names if denoiser in (None, name)]
