"""What ``layer.weight`` is for a packed layer: made when it is read, and edits of it count."""

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from qsd.support.errors import QsdError

if TYPE_CHECKING:
    from qsd.runtime.layers import QuantizedLayer

View = Callable[[Tensor], Any]

_SET_DATA: Any = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_LEAVES_TORCH = (
    torch.Tensor.numpy,
    torch.Tensor.__array__,
    torch.Tensor.tolist,
    torch.Tensor.__deepcopy__,
    torch.Tensor.__reduce_ex__,
)
_NEEDS_MEMORY = (
    torch.Tensor.data_ptr,
    torch.Tensor.untyped_storage,
    torch.Tensor.storage,
    torch.Tensor._typed_storage,
    torch.Tensor.is_shared,
    torch.Tensor.share_memory_,
    torch.Tensor.__dlpack__,
    torch.Tensor.resize_,
)


class LazyWeight(Tensor):
    """The weight of a packed layer, or a view of it.

    Shape, dtype and device are known; the values are dequantized by every operation that reads them. An
    operation that writes turns the layer's weight into a dense copy first (:meth:`QuantizedLayer.edit`).
    """

    _layer: "QuantizedLayer"
    _views: Sequence[View]
    _itself: "weakref.ref[LazyWeight]"

    @staticmethod
    def __new__(cls, layer: "QuantizedLayer", like: Tensor, views: Sequence[View] = ()) -> "LazyWeight":
        """Args: the layer, a meta tensor of the wanted shape and type, and how views led here."""
        lazy = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=layer.weight_device
        )
        lazy._layer, lazy._views = layer, tuple(views)
        lazy._itself = weakref.ref(lazy)  # torch swaps no tensors that have one: the swap would be lost
        return lazy

    def dense(self, *, to_write: bool = False) -> Tensor:
        """The values; where they are to be written, as memory that the layer computes with from now on."""
        value = self._layer.edit() if to_write else self._layer.read()
        for view in self._views:
            value = view(value)
        return value

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"LazyWeight({self.dense()!r})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Data that is assigned is an edit, and what leaves torch takes a dense copy along."""
        if func == _SET_DATA:
            target, value = args
            if not isinstance(value, LazyWeight) or value._layer is not target._layer:
                target._layer.edit(value if not isinstance(value, LazyWeight) else value.dense())
            return None
        if func in _LEAVES_TORCH:
            taken = func(args[0].dense(), *args[1:], **(kwargs or {}))
            if isinstance(taken, np.ndarray):
                taken.flags.writeable = False  # a write into this copy would be lost
            return taken
        if func in _NEEDS_MEMORY:
            raise QsdError("a packed weight has no memory of its own; use that of layer.weight.clone()")
        with torch._C.DisableTorchFunctionSubclass():  # results are plain tensors
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Reads, views and writes of :class:`LazyWeight`."""
        kwargs = kwargs or {}
        result = func.decompose(*args, **kwargs)  # of tensors made in inference mode, they arrive whole
        if result is not NotImplemented:
            return result
        schema = func._schema
        if schema.is_mutable:
            return _write(func, args, kwargs)
        first = args[0] if args else None
        aliases = any(value.alias_info is not None for value in schema.returns)
        if aliases and isinstance(first, LazyWeight):
            return _view(func, first, args[1:], kwargs)
        return func(*_dense(args), **_dense(kwargs))


def _write(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Runs an operation that writes into some of its arguments."""
    written = [
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in func._schema.arguments
    ]
    names = [argument.name for argument in func._schema.arguments]
    positional = [_dense(value, write) for value, write in zip(args, written, strict=False)]
    named = {key: _dense(value, written[names.index(key)]) for key, value in kwargs.items()}
    result = func(*positional, **named)
    targets = [value for value, write in zip(args, written, strict=False) if write]
    targets += [value for key, value in kwargs.items() if written[names.index(key)]]
    return targets[0] if len(targets) == 1 and isinstance(result, Tensor) else result


def _view(func: Any, lazy: LazyWeight, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A view that still leads to the layer."""
    like = func(
        torch.empty_strided(lazy.shape, lazy.stride(), dtype=lazy.dtype, device="meta"), *args, **kwargs
    )

    def lead(position: int | None, part: Tensor) -> LazyWeight:
        def view(value: Tensor) -> Any:
            found = func(value, *args, **kwargs)
            return found if position is None else found[position]

        return LazyWeight(lazy._layer, part, (*lazy._views, view))

    if isinstance(like, Tensor):
        return lead(None, like)
    return [lead(position, part) for position, part in enumerate(like)]


def _dense(values: Any, to_write: bool = False) -> Any:
    if not any(isinstance(leaf, LazyWeight) for leaf in tree_leaves(values)):
        return values
    return tree_map(
        lambda leaf: leaf.dense(to_write=to_write) if isinstance(leaf, LazyWeight) else leaf, values
    )
