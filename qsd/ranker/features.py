"""What the ranker sees of a denoiser: dimensionless features of nodes and of options.

Features are shared by all denoiser families, so that stores of several families train together. A record
is one int8 row: its node features are a gather from a table over (node, option) that is made once.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from qsd.denoisers.graph import COMBINE_KINDS, WEIGHT
from qsd.denoisers.roles import ROLES
from qsd.quantizers import Option
from qsd.quantizers.activations import FULL_BITS, parse_activations
from qsd.ranker.joint import nominal_error
from qsd.store import Header

KINDS = (WEIGHT, *COMBINE_KINDS)
ATTENTIONS = ("self_attn", "cross_attn", "added_attn", "pool_attn")
NODE_ROLES = (
    *ROLES,
    *COMBINE_KINDS,
    *(f"{attention}.{op}" for attention in ATTENTIONS for op in ("qk", "sv")),
)

STATIC_FEATURES = (
    "depth",  # position in execution order, 0 to 1
    "in_block",  # 1 inside of a transformer or resnet block
    "block",  # index of the block over the number of blocks, 0 outside
    "place_in_block",  # position among the nodes of its block, 0 to 1
    "stage",  # U-Net stage over the number of stages
    "is_weight",
    "log_share",  # log10 of the layer's share of all weights
    "log_fan_in",  # log10
    "log_fan_out",  # log10
    "log_mean_error",  # log10 of the relative error, mean over the options
)
OPTION_FEATURES = (
    "bits",  # of a code, over 4
    "is_uniform",  # grid
    "is_codebook",
    "is_float",
    "is_kept",  # not quantized
    "is_per_tensor",  # what shares a scale or codebook
    "is_per_row",
    "is_per_group",
    "log_group",  # log2 of the group over 8, 0 without groups
    "is_symmetric",
    "scale_bits",  # over 16
    "is_rotated",
    "log_rank",  # log2 of 1 + the rank of the low-rank part, over 8
    "log_error",  # log10 of the relative error
    "log_error_centred",  # the same minus its mean over the layer's options
    "relative_error",
    "compression",  # true bytes over bytes at 16 bits
    "activation_bits",  # of the input, over 16
    "activation_log_error",  # log10 of the nominal relative error of rounding the input
    "activation_rotated",
    "activation_smoothed",
    "activation_static",
)
"""Of an option that a layer cannot take, all are zero. No scheme is named: a new one has traits as well."""


def _feature_version() -> str:
    names = ",".join((*STATIC_FEATURES, *OPTION_FEATURES, *KINDS, *NODE_ROLES))
    return f"2-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


FEATURE_VERSION = _feature_version()
"""Changes whenever the meaning of a feature, a kind or a role index does."""


@dataclasses.dataclass(eq=False)
class GraphFeatures:
    """One topology as tensors. N nodes, L layers, O options, E edges.

    Attributes:
        kind: int64 [N], index into :data:`KINDS`.
        role: int64 [N], index into :data:`NODE_ROLES`.
        static: float32 [N, len(STATIC_FEATURES)].
        option: float32 [N, O, len(OPTION_FEATURES)], zeros for combine nodes and for unavailable options.
        layer: int64 [N], the layer of a weight node; combine nodes point to layer 0 and ignore it.
        is_weight: bool [N].
        is_output: bool [N], the last node of every block and of the graph.
        edge_index: int64 [2, E].
        num_layers: L.
    """

    kind: Tensor
    role: Tensor
    static: Tensor
    option: Tensor
    layer: Tensor
    is_weight: Tensor
    is_output: Tensor
    edge_index: Tensor
    num_layers: int

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.kind)

    @property
    def num_options(self) -> int:
        """O."""
        return self.option.shape[1]

    @classmethod
    def of(cls, header: Header) -> Self:
        """The features of a store's denoiser and option table (of pairs, see :mod:`qsd.ranker.joint`)."""
        nodes = header.graph.nodes
        layer = header.graph.layer_index
        option = np.where((layer >= 0)[:, None, None], _option_features(header)[layer.clip(0)], 0.0)
        return cls(
            kind=torch.tensor([KINDS.index(node.kind) for node in nodes]),
            role=torch.tensor([_role_index(node.role) for node in nodes]),
            static=torch.from_numpy(_static_features(header)).float(),
            option=torch.from_numpy(option).float(),
            layer=torch.from_numpy(layer.clip(0)),
            is_weight=torch.from_numpy(layer >= 0),
            is_output=torch.from_numpy(_block_outputs(header)),
            edge_index=torch.from_numpy(header.graph.edge_index),
            num_layers=len(header.layers),
        )

    def to(self, device: torch.device | str) -> Self:
        """A copy on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **moved)

    def edges(self, both_directions: bool) -> Tensor:
        """Edges, int64 [2, E], or [2, 2 E] with every edge in both directions."""
        forward = self.edge_index
        return torch.cat([forward, forward.flip(0)], dim=1) if both_directions else forward


def _role_index(role: str) -> int:
    return NODE_ROLES.index(role if role in NODE_ROLES else "other")


def _static_features(header: Header) -> np.ndarray:
    nodes = header.graph.nodes
    blocks = np.array([node.block for node in nodes])
    stages = np.array([node.stage for node in nodes], dtype=np.float64)
    place = np.zeros(len(nodes))
    for block in np.unique(blocks[blocks >= 0]):
        members = np.flatnonzero(blocks == block)
        place[members] = np.linspace(0, 1, len(members)) if len(members) > 1 else 0.0
    columns = {
        "depth": np.array([node.depth for node in nodes]),
        "in_block": (blocks >= 0).astype(np.float64),
        "block": blocks.clip(0) / max(blocks.max(), 1),
        "place_in_block": place,
        "stage": stages / max(stages.max(), 1),
        "is_weight": np.array([node.kind == WEIGHT for node in nodes], dtype=np.float64),
        **{name: column[header.graph.layer_index] for name, column in _layer_columns(header).items()},
    }
    return np.stack([columns[name] for name in STATIC_FEATURES], axis=1)


def _layer_columns(header: Header) -> dict[str, np.ndarray]:
    """Features of layers, each float64 [L + 1]; the last entry, index -1, is that of a combine node."""
    weights = header.num_weights
    columns = {
        "log_share": np.log10(weights / weights.sum()),
        "log_fan_in": np.log10([layer.fan_in for layer in header.layers]),
        "log_fan_out": np.log10([layer.fan_out for layer in header.layers]),
        "log_mean_error": np.nanmean(_log_error(header), axis=1),
    }
    return {name: np.append(column, 0.0) for name, column in columns.items()}


def _option_features(header: Header) -> np.ndarray:
    """float64 [L, O, len(OPTION_FEATURES)]."""
    log_error = _log_error(header)
    shape = log_error.shape
    traits = {name: np.array(values) for name, values in _trait_columns(header.options).items()}
    activations = {
        name: np.tile(values, shape[1] // len(values)) for name, values in _activation_columns(header).items()
    }
    columns = {
        **{name: np.broadcast_to(values, shape) for name, values in (traits | activations).items()},
        "log_error": log_error,
        "log_error_centred": log_error - np.nanmean(log_error, axis=1, keepdims=True),
        "relative_error": header.relative_error,
        "compression": header.num_bytes / (2.0 * header.num_weights[:, None]),
    }
    features = np.stack([columns[name] for name in OPTION_FEATURES], axis=2)
    return np.where(header.available[..., None], features, 0.0)


def _trait_columns(options: Sequence[Option]) -> dict[str, list[float]]:
    """Features that an option has in all layers, each with O entries."""
    traits = [option.traits for option in options]
    return {
        "bits": [each.bits / 4 for each in traits],
        "is_uniform": [float(each.grid == "uniform") for each in traits],
        "is_codebook": [float(each.grid == "codebook") for each in traits],
        "is_float": [float(each.grid == "float") for each in traits],
        "is_kept": [float(each.keep) for each in traits],
        "is_per_tensor": [float(each.scope == "tensor") for each in traits],
        "is_per_row": [float(each.scope == "row") for each in traits],
        "is_per_group": [float(each.scope == "group") for each in traits],
        "log_group": [math.log2(each.group / 8) if each.group else 0.0 for each in traits],
        "is_symmetric": [float(each.symmetric) for each in traits],
        "scale_bits": [each.scale_bits / 16 for each in traits],
        "is_rotated": [float(each.rotated) for each in traits],
        "log_rank": [math.log2(1 + each.rank) / 8 for each in traits],
    }


def _activation_columns(header: Header) -> dict[str, np.ndarray]:
    """Features of activation options, each float64 [A]."""
    options = parse_activations(header.activation_options)
    return {
        "activation_bits": np.array([option.bits / FULL_BITS for option in options]),
        "activation_log_error": np.log10([max(nominal_error(option), 1e-4) for option in options]),
        "activation_rotated": np.array([float(option.transform == "h") for option in options]),
        "activation_smoothed": np.array([float(option.transform == "m") for option in options]),
        "activation_static": np.array([float(option.static) for option in options]),
    }


def _log_error(header: Header) -> np.ndarray:
    return np.log10(header.relative_error.clip(1e-4))  # an exact option (error 0) stays finite


def _block_outputs(header: Header) -> np.ndarray:
    blocks = np.array([node.block for node in header.graph.nodes])
    is_output = np.zeros(len(blocks), dtype=bool)
    is_output[header.graph.output] = True
    for block in np.unique(blocks[blocks >= 0]):
        is_output[np.flatnonzero(blocks == block)[-1]] = True
    return is_output
