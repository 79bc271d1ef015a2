"""Weight layers: the quantizable weights of a denoiser, each exactly once."""

import dataclasses
import math
from typing import Any, Self, TypeGuard

import torch
from torch import nn

from qsd.support.errors import QsdError

KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
}


@dataclasses.dataclass(frozen=True)
class WeightLayer:
    """One quantizable weight, or one range of input channels (a segment) of a weight.

    Attributes:
        name: unique name: the module path, followed by ``[start:stop]`` when it is a segment.
        module: path of the module that holds the weight.
        segment: range of input channels (dimension 1 of the weight), None for the whole weight.
        role: what the layer does, a word of :data:`qsd.denoisers.roles.ROLES`.
        kind: "linear", "conv1d", "conv2d" or "conv3d".
        shape: shape of the weight, or of its slice when a segment; dimension 0 is the output channels.
        block: index of its transformer or resnet block in execution order, -1 outside of the blocks.
        stage: U-Net stage in execution order; 0 for transformers.
        depth: position of its first use in the execution order of the graph, 0 first to 1 last.
        tied: paths of other modules whose weight is the same parameter.
        macs: multiply-accumulates in one forward pass of one image; 0 if they were not counted, or where
            something else than the module reads its weight (such a layer keeps its input in 16 bits).
    """

    name: str
    module: str
    segment: tuple[int, int] | None
    role: str
    kind: str
    shape: tuple[int, ...]
    block: int = -1
    stage: int = 0
    depth: float = 0.0
    tied: tuple[str, ...] = ()
    macs: int = 0

    @property
    def num_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def fan_in(self) -> int:
        """Weights that each output channel sums over."""
        return math.prod(self.shape[1:])

    @property
    def fan_out(self) -> int:
        """Output channels."""
        return self.shape[0]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` restores an equal layer."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Restores what :meth:`to_json` wrote.

        Raises:
            QsdError: a field is missing or unknown.
        """
        try:
            fields = dict(data)
            segment = fields.pop("segment")
            return cls(
                segment=None if segment is None else (int(segment[0]), int(segment[1])),
                shape=tuple(fields.pop("shape")),
                tied=tuple(fields.pop("tied", ())),
                **fields,
            )
        except (KeyError, TypeError) as error:
            raise QsdError(
                f"malformed weight layer {data!r}: {error}; the file is not of this version"
            ) from error


def segment_name(module: str, segment: tuple[int, int] | None) -> str:
    """The name of a weight layer: ``module`` or ``module[start:stop]``."""
    return module if segment is None else f"{module}[{segment[0]}:{segment[1]}]"


def kind_of(module: nn.Module) -> str | None:
    """The kind of a quantizable module ("linear", "conv2d", ...), or None."""
    return next((kind for cls, kind in KINDS.items() if isinstance(module, cls)), None)


def is_weighted(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module holds a quantizable weight (typed as Linear: ``weight`` and ``bias`` tensors)."""
    return kind_of(module) is not None


def tied_modules(denoiser: nn.Module) -> dict[str, tuple[str, ...]]:
    """Quantizable module paths, grouped by the parameter that they share.

    Returns:
        First path of each group (module order) -> the other paths of the group.
    """
    groups: dict[int, list[str]] = {}
    for path, module in denoiser.named_modules(remove_duplicate=False):
        if is_weighted(module) and module.weight.numel():
            groups.setdefault(id(module.weight), []).append(path)
    return {paths[0]: tuple(paths[1:]) for paths in groups.values()}


def tie_equal_weights(denoiser: nn.Module) -> int:
    """Makes modules whose weights (and biases) are equal share one parameter, in place.

    Checkpoints such as DiT-XL/2 store the same timestep embedder once per block. Once tied, each such
    weight is one weight layer. Weights on the meta device have no values, packed ones are no parameters; both
    are left alone.

    Returns:
        How many modules now share the parameters of an earlier module.
    """
    first: dict[tuple[Any, ...], list[nn.Linear]] = {}
    num_tied = 0
    for module in denoiser.modules():
        if not is_weighted(module) or "weight" not in module._parameters or module.weight.is_meta:
            continue
        weight, bias = module.weight.detach(), module.bias
        key = (tuple(weight.shape), weight.dtype, bias is None, float(weight.sum()))
        twin = next((other for other in first.setdefault(key, []) if _equal(module, other)), None)
        if twin is None:
            first[key].append(module)
        elif twin.weight is not module.weight:
            module.weight, module.bias = twin.weight, twin.bias
            num_tied += 1
    return num_tied


def _equal(module: nn.Linear, other: nn.Linear) -> bool:
    if not torch.equal(module.weight, other.weight):
        return False
    return module.bias is None or torch.equal(module.bias, other.bias)
