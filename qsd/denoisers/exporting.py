"""From a denoiser to its ATen operations, without the memory of its weights."""

import copy
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qsd.errors import QsdError, first_line

_WRAPPER_PREFIX = "denoiser."


class _FirstOutput(nn.Module):
    """A denoiser called by keywords, returning its prediction as one tensor."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        outputs = self.denoiser(**inputs, return_dict=False)
        while isinstance(outputs, tuple | list):
            outputs = outputs[0]
        return outputs


def meta_copy(denoiser: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes and ties but no memory."""
    memo: dict[int, Any] = {}
    for parameter in denoiser.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in denoiser.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(denoiser, memo).eval()


def export(denoiser: nn.Module, inputs: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """Exports the forward pass of a copy of the denoiser on the meta device.

    Args:
        denoiser: any diffusers denoiser, on any device.
        inputs: keyword arguments of its forward, tensors on the meta device.

    Raises:
        QsdError: the forward cannot be traced; the message names the operation.
    """
    wrapper = _FirstOutput(meta_copy(denoiser))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(wrapper, (dict(inputs),), strict=False)
    except Exception as error:
        raise QsdError(
            f"{type(denoiser).__name__} cannot be traced: {_failing_operation(error)}; "
            "pass inputs= that avoid it, or ask for the module-order chain graph"
        ) from error


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
    outside = [frame for frame in frames if "torch" not in Path(frame.filename).parts]
    place = f"{outside[-1].name} runs `{outside[-1].line}`" if outside else "the forward fails"
    return f"{place} ({first_line(error)})"


def on_meta(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with every tensor replaced by one without memory."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), dict(inputs))
