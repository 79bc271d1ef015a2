"""The formats that ``qsd export --format`` writes, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

from qsd.export.comfy import FILE_NAME as COMFY_FILE
from qsd.export.comfy import write_comfy
from qsd.export.gguf import FILE_NAME as GGUF_FILE
from qsd.export.gguf import write_gguf
from qsd.export.native import write_native
from qsd.export.recipe import write_recipe
from qsd.export.sdnq import write_sdnq
from qsd.support.errors import QsdError

_FLUX_WIDTH = 3072
Parts = Mapping[str, Any]
"""Folder name -> denoiser."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        write: writes the folder of a denoiser: folder, denoiser, bank, config (int8 [L]), provenance, and
            the settings of :func:`qsd.export.shards.write_shards`; returns the sizes of
            :class:`qsd.export.ExportResult`.
        loading: lines of Python that open the denoisers, or the pipeline of that class if one was written;
            the variant of the files, if they have one, comes last.
        whole: whether ``DiffusionPipeline.from_pretrained`` opens a pipeline with such a denoiser.
        shards: whether it has files of a variant and of a largest size.
        about: what the model card says first.
        activations: whether it says how inputs of layers are rounded; ``write`` then takes what
            :class:`qsd.bank.carried.Carried` has, and the table of :class:`qsd.bank.ActivationTable`.
    """

    write: Callable[..., dict[str, int]]
    loading: Callable[[Parts, str | None, str | None], list[str]]
    whole: bool = False
    shards: bool = False
    about: str = "The weight layers of this denoiser are stored in few bits, a type of its own for each."
    activations: bool = False


def _with(plugin: str) -> Callable[[Parts, str | None, str | None], list[str]]:
    """Opened by ``from_pretrained`` after a package is imported."""

    def loading(parts: Parts, pipeline: str | None, variant: str | None) -> list[str]:
        chosen = f', variant="{variant}"' if variant else ""
        classes = sorted({type(part).__name__ for part in parts.values()})
        opened = [
            f'{name} = {type(part).__name__}.from_pretrained("FOLDER/{name}"{chosen})'
            for name, part in parts.items()
        ]
        if pipeline is not None:
            classes, opened = [pipeline], [f'pipe = {pipeline}.from_pretrained("FOLDER"{chosen})']
        return [f"import {plugin}", f"from diffusers import {', '.join(classes)}", "", *opened]

    return loading


def _recipe(parts: Parts, pipeline: str | None, variant: str | None) -> list[str]:
    return [f"# qsd export --recipe {next(iter(parts))}/recipe.json --pipeline PIPELINE --out FOLDER"]


def _gguf(parts: Parts, pipeline: str | None, variant: str | None) -> list[str]:
    lines = ["import torch", "from diffusers import GGUFQuantizationConfig"]
    for name, part in parts.items():
        kind = type(part).__name__
        if kind not in SINGLE_FILE_LOADABLE_CLASSES:
            return [f"# diffusers opens no single files of {kind}; other readers of GGUF do"]
        if kind == "FluxTransformer2DModel" and part.inner_dim != _FLUX_WIDTH:
            return [
                f"# diffusers opens single files of {kind} at FLUX.1's width alone; other readers do not mind"
            ]
        lines += [
            f"from diffusers import {kind}",
            "",
            f"{name} = {kind}.from_single_file(",
            f'    "FOLDER/{name}/{GGUF_FILE}",',
            f'    config="FOLDER/{name}",',
            "    quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),",
            "    torch_dtype=torch.bfloat16,",
            ")",
        ]
    return lines


def _comfy(parts: Parts, pipeline: str | None, variant: str | None) -> list[str]:
    return [f"# copy {name}/{COMFY_FILE} to ComfyUI/models/diffusion_models" for name in parts]


FORMATS: dict[str, Format] = {
    "qsd": Format(write_native, _with("qsd"), whole=True, shards=True, activations=True),
    "recipe": Format(
        write_recipe, _recipe, about="A recipe: which type each weight layer gets. It holds no weights."
    ),
    "sdnq": Format(write_sdnq, _with("sdnq"), whole=True, shards=True),
    "gguf": Format(write_gguf, _gguf),
    "comfy": Format(write_comfy, _comfy),
}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        QsdError: there is none.
    """
    if name not in FORMATS:
        raise QsdError(f"unknown export format '{name}': use one of {', '.join(FORMATS)}")
    return FORMATS[name]
