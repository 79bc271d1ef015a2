"""A pipeline whose modules have shapes and no weights, and which can still be called up to its denoiser."""

import functools
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.utils._pytree import tree_map_only

from qsd.denoisers.components import denoisers_of
from qsd.support.quiet import quiet

_LIBRARIES = ("diffusers", "transformers")


def weightless_pipeline(folder: Path) -> Any:
    """Opens a pipeline folder without its weights: every module is on the meta device, in float32.

    Raises:
        Exception: of any kind, where a component is not built from its config alone.
    """
    with quiet():
        components: dict[str, Any] = {}
        for name, entry in DiffusionPipeline.load_config(str(folder)).items():
            known = isinstance(entry, list | tuple) and len(entry) == 2 and entry[0] in _LIBRARIES
            cls = getattr(importlib.import_module(entry[0]), entry[1]) if known and entry[1] else None
            if isinstance(cls, type) and issubclass(cls, nn.Module):
                components[name] = _weightless(cls, folder / name)
        pipe = DiffusionPipeline.from_pretrained(str(folder), **components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _weightless(cls: Any, folder: Path) -> nn.Module:
    if hasattr(cls, "load_config"):
        config = cls.load_config(str(folder))
        with torch.device("meta"):
            module: nn.Module = cls.from_config(config)
    else:
        settings = cls.config_class.from_pretrained(str(folder), attn_implementation="eager")
        with torch.device("meta"):
            module = cls(settings)
    return module.eval().requires_grad_(False)


@contextmanager
def callable_without_weights(pipe: Any) -> Iterator[None]:
    """Inside, the pipeline takes itself for one on the CPU, and its modules answer with zeros there.

    What its denoisers are called with has then the shapes, flags and masks of the real call.
    """
    original = type(pipe)
    cpu = property(lambda self: torch.device("cpu"))
    pipe.__class__ = type(original.__name__, (original,), {"device": cpu, "_execution_device": cpu})
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    denoisers = list(denoisers_of(pipe).values())
    for module in modules:
        masked = any(module is denoiser for denoiser in denoisers)
        module.forward = _answering_with_zeros(module.forward, masked)
    try:
        yield
    finally:
        pipe.__class__ = original
        for module in modules:
            vars(module).pop("forward", None)


def _answering_with_zeros(forward: Any, masked: bool) -> Any:
    """The forward on shapes; without masks, whose values encoders ask for and which change no shape."""

    names = list(inspect.signature(forward).parameters)

    @functools.wraps(forward)
    def answer(*args: Any, **kwargs: Any) -> Any:
        if not masked:
            args = tuple(None if "mask" in name else value for name, value in zip(names, args, strict=False))
            kwargs = {name: value for name, value in kwargs.items() if "mask" not in name}
        to_meta = functools.partial(tree_map_only, torch.Tensor, lambda tensor: tensor.to("meta"))
        output = forward(*to_meta(args), **to_meta(kwargs))
        return tree_map_only(torch.Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), output)

    return answer
