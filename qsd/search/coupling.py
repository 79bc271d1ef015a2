"""Layers that must share an option, and options that a format can hold: what an export leaves to choose."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np

from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option
from qsd.support.errors import QsdError

Coupling = Literal["qkv", "segments"]
FormatName = Literal["qsd", "sdnq", "gguf", "comfy"]

_FUSED = {
    "self_attn": ("q", "k", "v"),
    "added_attn": ("q", "k", "v"),
    "pool_attn": ("q", "k", "v"),
    "cross_attn": ("k", "v"),
}
"""What reads one input and can be one matrix. (The queries of cross-attention read another.)"""
_FUSED_IN_FILES = frozenset({"FluxTransformer2DModel", "SD3Transformer2DModel"})
"""Denoisers whose original checkpoints, which ``gguf`` and ``comfy`` write, fuse them."""
_PARALLEL = ".proj_mlp"  # beside q, k and v in the one matrix of a parallel block
_SDNQ_KINDS = frozenset({"linear", "conv2d"})


def parse_couplings(text: str | None) -> tuple[Coupling, ...]:
    """Reads the words of ``--couple``, separated by commas.

    Raises:
        QsdError: an unknown word.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in get_args(Coupling):
            raise QsdError(f"couple {word!r}: there is none; use {' or '.join(get_args(Coupling))}")
    return tuple(word for word in get_args(Coupling) if word in words)


def implied_by(format: FormatName, denoiser_class: str) -> tuple[Coupling, ...]:
    """The couplings that an export format asks for."""
    if format == "qsd":
        return ()
    fuses = format in ("gguf", "comfy") and denoiser_class in _FUSED_IN_FILES
    return ("qkv", "segments") if fuses else ("segments",)


def groups_of(layers: Sequence[WeightLayer], couplings: Iterable[Coupling]) -> list[list[int]]:
    """Layers that must take one option, by position; layers that stand alone are left out.

    Weights that modules share are one layer anyway.

    Args:
        layers: in bank order.
        couplings: ``qkv``: query, key and value of one attention (key and value of cross-attention) and what
            stands beside them in one matrix; ``segments``: all segments of one weight.
    """
    leader = list(range(len(layers)))
    for coupling in couplings:
        first: dict[str, int] = {}
        for place, layer in enumerate(layers):
            key = _attention(layer) if coupling == "qkv" else layer.module if layer.segment else None
            if key is not None:
                here, there = leader[place], leader[first.setdefault(key, place)]
                leader = [min(here, there) if at in (here, there) else at for at in leader]
    groups: dict[int, list[int]] = {}
    for place, at in enumerate(leader):
        groups.setdefault(at, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _attention(layer: WeightLayer) -> str | None:
    """The path of the attention that a layer is a fusible part of."""
    attention, _, part = layer.role.partition(".")
    if part in _FUSED.get(attention, ()):
        return f"{layer.module.rpartition('.')[0]} {attention}"
    if layer.module.endswith(_PARALLEL):
        return f"{layer.module.removesuffix(_PARALLEL)}.attn self_attn"
    return None


def held(
    format: FormatName,
    layers: Sequence[WeightLayer],
    options: Sequence[Option],
    num_bytes: np.ndarray,
) -> np.ndarray:
    """Sizes int64 [L, O] of what a format can hold, -1 elsewhere.

    Args:
        format: of the export.
        layers: in bank order.
        options: of the bank.
        num_bytes: int64 [L, O], -1 where a layer cannot take an option.

    Raises:
        QsdError: the format can hold a layer in none of its options, or there is no such format.
    """
    if format not in get_args(FormatName):
        raise QsdError(f"format {format!r}: there is none; use one of {', '.join(get_args(FormatName))}")
    holds = np.array([[_holds(format, layer, option) for option in options] for layer in layers])
    sizes = np.where(holds, num_bytes, -1)
    bare = np.flatnonzero((sizes < 0).all(axis=1))
    if len(bare):
        layer = layers[bare[0]]
        add = {"sdnq": "uaq-4", "gguf": "q4_k, q8_0", "comfy": "w4a8, int8"}.get(format, "int8")
        remedy = (
            f"{format} splits no weights; add 'keep' to the bank, or build it with --graph chain"
            if layer.segment and format == "sdnq"
            else f'add some with `qsd bank --add "[{add}, keep]"`'
        )
        raise QsdError(
            f"layer '{layer.name}' of shape {tuple(layer.shape)}: {format} can hold none of the bank's "
            f"options for it; {remedy}"
        )
    return sizes


def _holds(format: FormatName, layer: WeightLayer, option: Option) -> bool:
    if format == "qsd":
        return True
    if option.traits.keep:
        return True
    if format == "sdnq" and layer.segment is not None:
        return False
    if format not in option.carriers:
        return False
    if format == "sdnq":
        return layer.kind in _SDNQ_KINDS and (layer.kind == "linear" or not option.traits.group)
    return format == "gguf" or (layer.kind == "linear" and layer.segment is None)
