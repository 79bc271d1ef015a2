"""From a denoiser to its ATen operations: by shapes, without the memory of its weights, or by values."""

import contextlib
import copy
import dataclasses
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import flex_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from qsd.support.errors import QsdError, first_line
from qsd.support.quiet import unreported

_WRAPPER_PREFIX = "denoiser."


@dataclasses.dataclass(frozen=True)
class Program:
    """The operations of one forward pass.

    Attributes:
        graph: ATen operations in execution order, with shapes (``meta["val"]``) and modules.
        parameters: name of a node that reads a parameter -> path of the parameter in the denoiser.
        outputs: nodes of the tensors that the forward returns.
    """

    graph: fx.Graph
    parameters: dict[str, str]
    outputs: tuple[fx.Node, ...]


class _Called(nn.Module):
    """A denoiser whose tensor arguments are given one by one, and which returns its tensors one by one."""

    def __init__(self, denoiser: nn.Module, inputs: Mapping[str, Any], *, real_masks: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.real_masks = real_masks
        self._leaves, self._structure = tree_flatten(dict(inputs))
        self._places = [
            place
            for place, leaf in enumerate(self._leaves)
            if isinstance(leaf, torch.Tensor) and not (real_masks and _is_mask(leaf))
        ]

    def tensors(self) -> list[torch.Tensor]:
        return [self._leaves[place] for place in self._places]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        with _RealMasks() if self.real_masks else contextlib.nullcontext():
            outputs = self.denoiser(**tree_unflatten(leaves, self._structure))
        return tuple(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor))


class _Rooted:
    """A callable that tells the tracer which module it runs."""

    def __init__(self, module: nn.Module) -> None:
        self._orig_mod = module

    def __call__(self, *tensors: torch.Tensor) -> Any:
        return self._orig_mod(*tensors)


class _RealMasks(TorchFunctionMode):
    """Computes what follows from masks alone for real, while everything else is traced by shape.

    Some forwards read sequence lengths or positions off a mask, which shapes cannot answer.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with _disable_current_modes():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def weightless_copy(denoiser: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy that pretends to be on the CPU: parameters and buffers have shapes and ties but no memory."""
    memo: dict[int, Any] = {}
    with mode:
        for parameter in denoiser.parameters():
            memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False)
        for buffer in denoiser.buffers():
            memo[id(buffer)] = torch.empty_like(buffer, device="cpu")
    for table in _plain_meta_tensors(denoiser):  # small, and the tracer knows no other way to hold them
        memo.setdefault(id(table), torch.zeros_like(table, device="cpu"))
    return copy.deepcopy(denoiser, memo).eval()


def _plain_meta_tensors(denoiser: nn.Module) -> list[torch.Tensor]:
    """Tables that modules keep as plain attributes, on the meta device with everything else."""
    attributes = (leaf for module in denoiser.modules() for leaf in tree_leaves(vars(module)))
    return [leaf for leaf in attributes if isinstance(leaf, torch.Tensor) and leaf.is_meta]


def export(denoiser: nn.Module, inputs: Mapping[str, Any]) -> Program:
    """Traces the forward pass of a denoiser.

    At first a copy is run whose tensors have shapes but no memory. A forward that asks for values (``item``,
    ``nonzero``) is then run for real, where weights and inputs have values.

    Args:
        denoiser: any diffusers denoiser, on any device (meta included).
        inputs: keyword arguments of its forward, tensors on any device; boolean tensors that are not on the
            meta device keep their values.

    Raises:
        QsdError: the forward cannot be traced; the message names the operation.
    """
    arguments = {name: value for name, value in inputs.items() if name != "return_dict"}
    if "return_dict" in inspect.signature(denoiser.forward).parameters:
        arguments["return_dict"] = False
    try:
        return _by_shapes(denoiser, arguments)
    except Exception as error:
        failure = error
    if not any(tensor.is_meta for tensor in [*denoiser.parameters(), *_tensors(arguments)]):
        try:
            return _by_values(denoiser, arguments)
        except Exception as error:
            failure = error
    raise QsdError(
        f"{type(denoiser).__name__} cannot be traced: {_failing_operation(failure)}; pass inputs= that its "
        'forward accepts (`--inputs FILE`), or take the module-order graph: graph="chain" (`--graph chain`)'
    ) from failure


def _by_shapes(denoiser: nn.Module, inputs: Mapping[str, Any]) -> Program:
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def shape_of(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if _is_mask(tensor) else torch.empty_like(tensor, device="cpu")

    weightless = weightless_copy(denoiser, mode)
    containers = copy_of(inputs)
    with mode, unreported():
        shapes = tree_map_only(torch.Tensor, shape_of, containers)
        return _program(_Called(weightless, shapes, real_masks=True))


def _by_values(denoiser: nn.Module, inputs: Mapping[str, Any]) -> Program:
    device = next(denoiser.parameters()).device
    moved = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, copy=True), copy_of(inputs))
    with _evaluating(denoiser):
        return _program(_Called(denoiser, moved, real_masks=False))


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Traces flex attention as the attention that it is; its masks choose values, not operations."""
    original, original_mask = flex_attention.flex_attention, flex_attention.create_mask

    def mask(*arguments: Any, **settings: Any) -> Any:
        with _disable_current_modes():
            return original_mask(*arguments, **settings)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **settings: Any) -> Any:
        grouped = bool(settings.get("enable_gqa"))
        output = F.scaled_dot_product_attention(query, key, value, enable_gqa=grouped)
        statistics = query.new_zeros(query.shape[:-1])
        if settings.get("return_aux") is not None:
            return output, flex_attention.AuxOutput(lse=statistics, max_scores=statistics)
        return (output, statistics) if settings.get("return_lse") else output

    flex_attention.flex_attention = attend
    flex_attention.create_mask = mask
    try:
        yield
    finally:
        flex_attention.flex_attention, flex_attention.create_mask = original, original_mask


def _program(called: _Called) -> Program:
    record = make_fx(
        _Rooted(called), pre_dispatch=True, record_module_stack=True, _error_on_data_dependent_ops=False
    )
    with torch.no_grad(), _plain_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = record(*called.tensors())
    paths = {id(parameter): path for path, parameter in called.denoiser.named_parameters()}
    parameters = {
        node.name: paths[id(getattr(traced, str(node.target)))]
        for node in traced.graph.nodes
        if node.op == "get_attr" and id(getattr(traced, str(node.target))) in paths
    }
    (output,) = traced.graph.find_nodes(op="output")
    return Program(traced.graph, parameters, tuple(output.all_input_nodes))


@contextlib.contextmanager
def _evaluating(denoiser: nn.Module) -> Iterator[None]:
    """Evaluation mode meanwhile."""
    training = [module for module in denoiser.modules() if module.training]
    denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def copy_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with containers and caches of their own, since a forward may write into them."""
    tensors = {id(tensor): tensor for tensor in _tensors(inputs)}
    return copy.deepcopy(dict(inputs), dict(tensors))


def _tensors(inputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def _is_mask(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool and not value.is_meta


def module_path(node: fx.Node) -> str:
    """Path in the denoiser of the innermost module that ran an operation; empty for the denoiser itself."""
    stack = node.meta.get("nn_module_stack") or {}
    innermost = next(reversed(stack.values()), ("",))[0] if stack else ""
    return "" if innermost == "denoiser" else str(innermost).removeprefix(_WRAPPER_PREFIX)


def _failing_operation(error: BaseException) -> str:
    """The innermost line of code outside of torch that failed, and the reason."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [
        frame for frame in frames if "torch" not in Path(frame.filename).parts and frame.filename != __file__
    ]
    place = f"{outside[-1].name} runs `{outside[-1].line}`" if outside else "the forward fails"
    return f"{place} ({first_line(error)})"
