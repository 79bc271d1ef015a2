"""Stacks of experts on packed codes: in the place of a parameter that a module multiplies by."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from qsd.runtime.layers import QuantizedLayer, check_supported, pack_module, unpack_modules
from qsd.runtime.packed import PackedParts


class QuantizedStack(QuantizedLayer):
    """Stands for a parameter [experts, inputs, outputs]: indexed, or given to torch, it is dense.

    The dense stack is made once in a forward pass of the module that owns it, and dropped at its end.
    """

    _dense: Tensor | None

    def read(self) -> Tensor:
        """The dense stack."""
        if self.packed.kept is not None and self.packed.kept.dtype == self.dtype:
            return self.packed.kept
        return super().read().view(self.shape)

    def dense_stack(self) -> Tensor:
        """The dense stack, kept until the forward pass ends."""
        if self._dense is None:
            self._dense = self.read()
        return self._dense

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense_stack()[index]

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), settings: dict[str, Any] | None = None
    ) -> Any:
        """Called by functions of torch that are given a stack."""
        arguments, settings = tree_map_only(
            QuantizedStack, QuantizedStack.dense_stack, (arguments, settings or {})
        )
        return function(*arguments, **settings)


def weight_shape(model: nn.Module, path: str) -> tuple[int, ...]:
    """The shape in which the weight of a module, or a stack of experts, is quantized."""
    from qsd.denoisers.layers import STACK, kind_of, matrix_of, weight_at  # diffusers imports this module

    owner, _, name = path.rpartition(".")
    kind = STACK if name not in model.get_submodule(owner)._modules else kind_of(model.get_submodule(path))
    return tuple(matrix_of(weight_at(model, path), kind or "").shape)


def is_stack(model: nn.Module, path: str) -> bool:
    """Whether a path is that of a stack of experts that is a parameter."""
    owner, _, name = path.rpartition(".")
    return name in model.get_submodule(owner)._parameters


def pack(model: nn.Module, path: str, packed: PackedParts, dtype: torch.dtype) -> None:
    """Gives a module its runtime form, or puts one into the place of a stack of experts.

    Raises:
        QsdError: there is none for such a module.
    """
    if not is_stack(model, path):
        check_supported(model.get_submodule(path), path)
        pack_module(model.get_submodule(path), packed, dtype)
        return
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    shape = tuple(module._parameters[name].shape)  # type: ignore[union-attr]
    del module._parameters[name]
    stack = QuantizedStack()
    stack.packed, stack._dense = packed, None
    stack.shape, stack.dtype = shape, dtype
    module.add_module(name, stack)
    if _drop not in module._forward_hooks.values():
        module.register_forward_hook(_drop)


def unpack(model: nn.Module) -> None:
    """Turns all of :func:`pack` back into full-precision layers and parameters."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, QuantizedStack):
                del module._modules[name]
                module.register_parameter(name, nn.Parameter(child.read(), requires_grad=False))
    unpack_modules(model)


def _drop(module: nn.Module, inputs: Any, output: Any) -> None:
    for child in module.children():
        if isinstance(child, QuantizedStack):
            child._dense = None
