"""Example inputs of a denoiser's forward pass, derived from its signature and config.

One table names, for every argument that some diffusers denoiser takes, how to make it from the config. An
argument whose rule answers None is left out. Tensors are on the meta device: shapes without values.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from qsd.support.errors import QsdError

BATCH = 1  # more would show forwards that loop over the batch once per image
TOKENS = 8
FRAMES = 3
SMALLEST_SIDE = 8

_CAPTION_WIDTHS = (
    "caption_channels",
    "joint_attention_dim",
    "text_embed_dim",
    "text_dim",
    "cap_feat_dim",
    "encoder_hid_dim",
    "cross_attention_dim",
)


def example_inputs(denoiser: nn.Module) -> dict[str, Any]:
    """Keyword arguments that the forward of a diffusers denoiser accepts.

    Args:
        denoiser: a diffusers model, or any module with a diffusers ``config``.

    Returns:
        Argument name -> tensor on the meta device, or a container of such, or a plain value. Numbers are of
        the denoiser's dtype.

    Raises:
        QsdError: there is no config, or the forward requires an argument that no rule can make.
    """
    name = type(denoiser).__name__
    if not hasattr(denoiser, "config"):
        raise QsdError(f"{name} has no diffusers config to derive example inputs from; pass inputs= to trace")
    parameters = inspect.signature(denoiser.forward).parameters
    facts = _Facts(name, dict(denoiser.config), set(parameters))  # type: ignore[arg-type]
    inputs: dict[str, Any] = {}
    for argument, parameter in parameters.items():
        try:
            value = _RULES[argument](facts) if argument in _RULES else None
        except (LookupError, TypeError) as error:  # of a config that lacks what a rule reads
            raise QsdError(
                f"{argument!r} of {name}.forward cannot be guessed from its config; pass inputs= to trace"
            ) from error
        if value is not None:
            inputs[argument] = value
        elif parameter.default is parameter.empty:
            raise QsdError(
                f"{name}.forward needs {argument!r}, which qsd cannot guess; pass inputs= to trace"
            )
    dtype = getattr(denoiser, "dtype", torch.float32)
    return tree_map_only(
        torch.Tensor, lambda value: value.to(dtype) if value.is_floating_point() else value, inputs
    )


class _Facts:
    """What the rules read: class name, config, and the arguments that the forward takes."""

    def __init__(self, name: str, config: Mapping[str, Any], arguments: Collection[str]) -> None:
        self.name, self.config, self.arguments = name, config, arguments

    @property
    def side(self) -> int:
        """A small side length, in latent pixels, that patches and downsamplings divide."""
        patch = self.config.get("patch_size") or 1
        patch = patch if isinstance(patch, int) else patch[-1]
        unit = patch * 2 ** (len(self.config.get("down_block_types") or (None,)) - 1)
        return unit * max(2, -(-SMALLEST_SIDE // unit))

    @property
    def frames(self) -> int:
        """Latent frames of a video."""
        return FRAMES * (self.config.get("patch_size_t") or 1)

    @property
    def channels(self) -> int:
        return int(self.config["in_channels"])

    @property
    def caption_width(self) -> int:
        """Width of the caption tokens that the denoiser is given."""
        width = next((self.config[key] for key in _CAPTION_WIDTHS if self.config.get(key)), None)
        if width is None:
            raise QsdError(
                f"the config of {self.name} states no width of caption tokens; pass inputs= to trace"
            )
        return int(width)


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def _latents(facts: _Facts) -> torch.Tensor:
    channels, side = facts.channels, facts.side
    if {"img_ids", "img_shapes"} & set(facts.arguments):
        return _empty(BATCH, side * side, channels)
    if "num_frames" in facts.arguments:
        return _empty(BATCH, FRAMES * side * side, channels)
    if facts.name.startswith("CogVideoX"):
        return _empty(BATCH, facts.frames, channels, side, side)
    if "3D" in facts.name:
        return _empty(BATCH, channels, facts.frames, side, side)
    return _empty(BATCH, channels, side, side)


def _caption(facts: _Facts) -> torch.Tensor | None:
    if facts.name == "HunyuanDiT2DModel":
        return _empty(BATCH, facts.config["text_len"], facts.config["cross_attention_dim"])
    tokens = facts.config.get("max_text_seq_length") or TOKENS
    return _empty(BATCH, tokens, facts.caption_width)


def _added_conditions(facts: _Facts) -> dict[str, Any] | None:
    config = facts.config
    if config.get("addition_embed_type") == "text_time":
        num_ids = 6
        pooled = config["projection_class_embeddings_input_dim"] - num_ids * config["addition_time_embed_dim"]
        return {"text_embeds": _empty(BATCH, pooled), "time_ids": _empty(BATCH, num_ids)}
    if facts.name.startswith("PixArt"):
        has_sizes = config.get("use_additional_conditions")
        if has_sizes if has_sizes is not None else config["sample_size"] == 128:
            return {"resolution": _empty(BATCH, 2), "aspect_ratio": _empty(BATCH, 1)}
        return {"resolution": None, "aspect_ratio": None}
    return None


def _class_labels(facts: _Facts) -> torch.Tensor | None:
    is_class_conditional = facts.name.startswith("DiT") or facts.config.get("class_embed_type") is not None
    return _empty(BATCH, dtype=torch.long) if is_class_conditional else None


def _pooled(facts: _Facts) -> torch.Tensor:
    return _empty(BATCH, facts.config["pooled_projection_dim"])


def _mask(facts: _Facts) -> torch.Tensor:
    return torch.ones(BATCH, TOKENS, dtype=torch.bool)


def _hunyuan(key: str, *, width: str | None = None) -> Callable[[_Facts], torch.Tensor]:
    """A caption tensor of Hunyuan-DiT: [batch, length] or [batch, length, width]."""
    return lambda facts: _empty(BATCH, facts.config[key], *([facts.config[width]] if width else []))


def _if_config(key: str, make: Callable[[_Facts], Any]) -> Callable[[_Facts], Any]:
    return lambda facts: make(facts) if facts.config.get(key) else None


def _position_ids(num_tokens: Callable[[_Facts], int]) -> Callable[[_Facts], torch.Tensor]:
    return lambda facts: _empty(num_tokens(facts), len(facts.config["axes_dims_rope"]))


def _scalars(facts: _Facts) -> torch.Tensor:
    return _empty(BATCH)


def _image_list(facts: _Facts) -> list[torch.Tensor]:
    return [_empty(facts.channels, 1, facts.side, facts.side) for _ in range(BATCH)]


_SIZES = lambda facts: _empty(BATCH, 2)  # noqa: E731

_RULES: dict[str, Callable[[_Facts], Any]] = {
    "hidden_states": _latents,
    "sample": _latents,
    "x": _image_list,
    "timestep": _scalars,
    "t": _scalars,
    "guidance": _if_config("guidance_embeds", _scalars),
    "encoder_hidden_states": _caption,
    "encoder_hidden_states_t5": _hunyuan("text_len_t5", width="cross_attention_dim_t5"),
    "cap_feats": lambda facts: [_empty(TOKENS, facts.caption_width) for _ in range(BATCH)],
    "text_embedding_mask": _hunyuan("text_len"),
    "text_embedding_mask_t5": _hunyuan("text_len_t5"),
    "encoder_attention_mask": _mask,
    "encoder_hidden_states_mask": _mask,
    "pooled_projections": _pooled,
    "class_labels": _class_labels,
    "image_meta_size": _if_config("use_style_cond_and_image_meta_size", lambda facts: _empty(BATCH, 6)),
    "style": _if_config("use_style_cond_and_image_meta_size", lambda facts: _empty(BATCH, dtype=torch.long)),
    "added_cond_kwargs": _added_conditions,
    "img_ids": _position_ids(lambda facts: facts.side**2),
    "txt_ids": _position_ids(lambda facts: TOKENS),
    "img_shapes": lambda facts: [(1, facts.side, facts.side)] * BATCH,
    "original_size": _SIZES,
    "target_size": _SIZES,
    "crop_coords": _SIZES,
    "num_frames": lambda facts: FRAMES,
    "height": lambda facts: facts.side,
    "width": lambda facts: facts.side,
}
