"""From a denoiser to its ATen operations, without the memory of its weights."""

import copy
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from qsd.support.errors import QsdError, first_line

_WRAPPER_PREFIX = "denoiser."


class _FirstOutput(nn.Module):
    """A denoiser called by keywords, returning its prediction as one tensor."""

    def __init__(self, denoiser: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._masks = dict(masks)

    def forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        with _RealMasks():
            outputs = self.denoiser(**inputs, **self._masks, return_dict=False)
        while isinstance(outputs, tuple | list):
            outputs = outputs[0]
        return outputs


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
    for table in _plain_meta_tensors(denoiser):  # small, and the exporter knows no other way to hold them
        memo.setdefault(id(table), torch.zeros_like(table, device="cpu"))
    return copy.deepcopy(denoiser, memo).eval()


def _plain_meta_tensors(denoiser: nn.Module) -> list[torch.Tensor]:
    """Tables that modules keep as plain attributes, on the meta device with everything else."""
    attributes = (leaf for module in denoiser.modules() for leaf in tree_leaves(vars(module)))
    return [leaf for leaf in attributes if isinstance(leaf, torch.Tensor) and leaf.is_meta]


def export(denoiser: nn.Module, inputs: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """Exports the forward pass of a copy of the denoiser whose tensors have shapes but no memory.

    Args:
        denoiser: any diffusers denoiser, on any device (meta included).
        inputs: keyword arguments of its forward, tensors on any device; boolean tensors that are not on the
            meta device keep their values.

    Raises:
        QsdError: the forward cannot be traced; the message names the operation.
    """
    masks = {name: value for name, value in inputs.items() if _is_mask(value)}
    others = {name: value for name, value in inputs.items() if name not in masks}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        shapes = tree_map_only(torch.Tensor, lambda tensor: torch.empty_like(tensor, device="cpu"), others)
    wrapper = _FirstOutput(weightless_copy(denoiser, mode), masks)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(wrapper, (shapes,), strict=False)
    except Exception as error:
        raise QsdError(
            f"{type(denoiser).__name__} cannot be traced: {_failing_operation(error)}; "
            "pass inputs= that avoid it, or ask for the module-order chain graph"
        ) from error


def _is_mask(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool and not value.is_meta


def parameter_paths(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Placeholder name -> parameter path in the denoiser, as in ``named_parameters``."""
    names = program.graph_signature.inputs_to_parameters
    return {placeholder: path.removeprefix(_WRAPPER_PREFIX) for placeholder, path in names.items()}


def module_path(node: torch.fx.Node) -> str:
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
