"""Example inputs of a denoiser's forward pass, derived from its class and config."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qsd.errors import QsdError

BATCH = 2
TOKENS = 7
SIDE = 8


def example_inputs(denoiser: nn.Module) -> dict[str, Any]:
    """Keyword arguments that the forward of a diffusers denoiser accepts.

    Args:
        denoiser: a diffusers model, or any module with a ``config``.

    Returns:
        Argument name -> tensor on the meta device (or a container of such, or a plain value).

    Raises:
        QsdError: the forward has a required argument that no rule here can make.
    """
    config = dict(denoiser.config)  # type: ignore[arg-type]
    name = type(denoiser).__name__
    special = _FAMILIES.get(name, lambda config: {})(config)
    inputs: dict[str, Any] = {}
    for argument, parameter in inspect.signature(denoiser.forward).parameters.items():
        if argument in special:
            inputs[argument] = special[argument]
        elif argument in _COMMON and (parameter.default is parameter.empty or argument in _WANTED):
            inputs[argument] = _COMMON[argument](config)
        elif parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise QsdError(
                f"{name}.forward needs {argument!r}, which qsd cannot guess; pass inputs= to trace"
            )
    return inputs


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def _latents(config: dict[str, Any]) -> torch.Tensor:
    side = _side(config)
    return _empty(BATCH, config["in_channels"], side, side)


def _side(config: dict[str, Any]) -> int:
    """A small side length that every patch size and downsampling divides, at most the model's own."""
    patch = config.get("patch_size") or 1
    halvings = len(config.get("down_block_types") or ()) or 1
    return max(SIDE, int(patch) * 4, 2**halvings)


def _caption_width(config: dict[str, Any]) -> int:
    for key in ("caption_channels", "joint_attention_dim", "text_dim", "cap_feat_dim", "cross_attention_dim"):
        if config.get(key):
            return int(config[key])
    raise QsdError("the config states no width of caption tokens; pass inputs= to trace")


def _timesteps(config: dict[str, Any]) -> torch.Tensor:
    return _empty(BATCH, dtype=torch.long)


_COMMON: dict[str, Callable[[dict[str, Any]], Any]] = {
    "hidden_states": _latents,
    "sample": _latents,
    "timestep": _timesteps,
    "encoder_hidden_states": lambda config: _empty(BATCH, TOKENS, _caption_width(config)),
    "pooled_projections": lambda config: _empty(BATCH, config["pooled_projection_dim"]),
}
_WANTED = {"timestep", "encoder_hidden_states", "pooled_projections"}


def _pixart(config: dict[str, Any]) -> dict[str, Any]:
    has_sizes = config["use_additional_conditions"]
    if has_sizes is None:
        has_sizes = config["sample_size"] == 128
    conditions = (
        {"resolution": _empty(BATCH, 2), "aspect_ratio": _empty(BATCH, 1)}
        if has_sizes
        else {
            "resolution": None,
            "aspect_ratio": None,
        }
    )
    return {"added_cond_kwargs": conditions}


def _dit(config: dict[str, Any]) -> dict[str, Any]:
    return {"class_labels": _timesteps(config)}


_FAMILIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "PixArtTransformer2DModel": _pixart,
    "DiTTransformer2DModel": _dit,
}
