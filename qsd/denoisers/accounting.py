"""Which share of a denoiser its weight layers hold, and what is left at full precision and why."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from qsd.denoisers.layers import WeightLayer, is_weighted, parameter_path, stacks

_SHOWN = 3
EMBEDDING, UNREACHED, OTHER = (
    "embedding table (left alone)",
    "layer that the traced call never reaches",
    "other parameter",
)
SMALL = "bias, norm or other vector"


@dataclasses.dataclass(frozen=True)
class Holdings:
    """What the numbers of a denoiser belong to.

    Attributes:
        num_weights: in weight layers.
        num_parameters: in all parameters, shared ones once.
        left_out: reason -> parameter path -> numbers, for all that no weight layer holds.
    """

    num_weights: int
    num_parameters: int
    left_out: dict[str, dict[str, int]]

    @property
    def share(self) -> float:
        """Share of the denoiser's bytes at full precision that weight layers hold."""
        return self.num_weights / max(self.num_parameters, 1)

    def to_json(self) -> dict[str, Any]:
        """Counts, and the names of everything but vectors."""
        named = {reason: sorted(paths) for reason, paths in self.left_out.items() if reason != SMALL}
        return {
            "num_weights": self.num_weights,
            "num_parameters": self.num_parameters,
            "share": self.share,
            "left_out": named,
        }

    def lines(self) -> list[str]:
        """A sentence on the share, and one for each reason with the largest names under it."""
        text = [
            f"weight layers hold {self.share:.1%} of the denoiser: {self.num_weights:,} of "
            f"{self.num_parameters:,} parameters; at full precision stay"
        ]
        for reason, paths in sorted(self.left_out.items(), key=lambda item: -sum(item[1].values())):
            largest = sorted(paths, key=lambda path: -paths[path])
            names = ", ".join(largest[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
            count = f"{len(paths)} times {reason}, {sum(paths.values()):,} numbers"
            text.append(f"  {count}" + ("" if reason == SMALL else f": {names}"))
        return text


def holdings(denoiser: nn.Module, layers: Sequence[WeightLayer]) -> Holdings:
    """Accounts for every parameter of a denoiser.

    Args:
        denoiser: what the layers are of, on any device.
        layers: its weight layers.
    """
    held = {parameter_path(denoiser, path) for layer in layers for path in (layer.module, *layer.tied)}
    owners = dict(denoiser.named_modules())
    left_out: dict[str, dict[str, int]] = {}
    kept = 0
    for path, parameter in denoiser.named_parameters():
        if path in held:
            kept += parameter.numel()
            continue
        owner = owners[path.rpartition(".")[0]]
        left_out.setdefault(_reason(owner, path, parameter), {})[path] = parameter.numel()
    total = kept + sum(sum(paths.values()) for paths in left_out.values())
    return Holdings(kept, total, left_out)


def _reason(owner: nn.Module, path: str, parameter: nn.Parameter) -> str:
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return EMBEDDING
    if (is_weighted(owner) and path.endswith("weight")) or path.rpartition(".")[2] in stacks(owner):
        return UNREACHED
    return SMALL if parameter.ndim < 2 else OTHER


def average_bits_of_all(weight_bytes: int, num_weights: int, num_parameters: int) -> float:
    """Average bits over all parameters: those of weight layers as stored, the others in 16 bits."""
    return (8 * weight_bytes + 16 * (num_parameters - num_weights)) / max(num_parameters, 1)
