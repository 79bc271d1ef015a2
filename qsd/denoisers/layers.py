"""Weight layers: the quantizable weights of a denoiser, each exactly once."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self, TypeGuard, cast

import torch
from torch import nn

from qsd.support.errors import QsdError

KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}
STACK = "experts"
"""The kind of a stack of experts: a parameter [experts, inputs, outputs] that its module multiplies by."""


@dataclasses.dataclass(frozen=True)
class WeightLayer:
    """One quantizable weight, or one range of input channels (a segment) of a weight.

    Attributes:
        name: unique name: the module path, followed by ``[start:stop]`` when it is a segment.
        module: path of the module that holds the weight; of a stack of experts, path of the parameter.
        segment: range of input channels (dimension 1 of the weight), None for the whole weight.
        role: what the layer does, a word of :data:`qsd.denoisers.roles.ROLES`.
        kind: "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d" to "conv_transpose3d", or
            "experts".
        shape: shape of the weight, or of its slice when a segment; dimension 0 is the output channels, of
            a transposed convolution the input channels. A stack of experts [E, inputs, outputs] is one weight
            [E * inputs, outputs].
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
        for name, stack in stacks(module).items():
            groups.setdefault(id(stack), []).append(f"{path}.{name}")
    return {paths[0]: tuple(paths[1:]) for paths in groups.values()}


def stacks(module: nn.Module) -> dict[str, nn.Parameter]:
    """The stacks of experts that a module holds as parameters of its own, by name.

    They are its parameters of three dimensions, if its class says in its name that it holds experts.
    """
    if "Expert" not in type(module).__name__:
        return {}
    return {
        name: value for name, value in module._parameters.items() if value is not None and value.ndim == 3
    }


def weight_at(denoiser: nn.Module, path: str) -> nn.Parameter:
    """The weight of a module, or the stack of experts, at a path."""
    owner, _, name = path.rpartition(".")
    parent = denoiser.get_submodule(owner)
    stack = stacks(parent).get(name)
    found: Any = parent.get_submodule(name).weight if stack is None else stack
    return cast(nn.Parameter, found)


def parameter_path(denoiser: nn.Module, path: str) -> str:
    """The path of the parameter that :func:`weight_at` gives."""
    owner, _, name = path.rpartition(".")
    return path if name in stacks(denoiser.get_submodule(owner)) else f"{path}.weight"


def matrix_of(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A weight in the shape in which it is quantized."""
    return weight.flatten(0, 1) if kind == STACK else weight


def tie_equal_weights(denoiser: nn.Module, hashes: Mapping[str, str] | None = None) -> int:
    """Makes modules whose weights (and biases) are equal share one parameter, in place.

    Checkpoints such as DiT-XL/2 store the same timestep embedder once per block. Once tied, each such
    weight is one weight layer. Packed weights are no parameters and are left alone, and so are weights on the
    meta device, which have no values, unless hashes tell which are equal.

    Args:
        denoiser: any denoiser.
        hashes: name of each parameter -> hash of its value.

    Returns:
        How many modules now share the parameters of an earlier module.
    """
    first: dict[tuple[Any, ...], list[nn.Linear]] = {}
    num_tied = 0
    for path, module in denoiser.named_modules():
        if not is_weighted(module) or "weight" not in module._parameters:
            continue
        if hashes is not None:
            key: tuple[Any, ...] = (hashes[f"{path}.weight"], hashes.get(f"{path}.bias"))
        elif module.weight.is_meta:
            continue
        else:
            weight = module.weight.detach()
            key = (tuple(weight.shape), weight.dtype, module.bias is None, float(weight.sum()))
        twins = first.setdefault(key, [])
        twin = next((other for other in twins if hashes is not None or _equal(module, other)), None)
        if twin is None:
            twins.append(module)
        elif twin.weight is not module.weight:
            module.weight, module.bias = twin.weight, twin.bias
            num_tied += 1
    return num_tied


def _equal(module: nn.Linear, other: nn.Linear) -> bool:
    if not torch.equal(module.weight, other.weight):
        return False
    return module.bias is None or torch.equal(module.bias, other.bias)
