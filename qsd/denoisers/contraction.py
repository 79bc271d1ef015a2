"""From ATen operations to weight nodes and joining nodes.

Every value of the traced program is followed to the last weight or joining operation it came from, its
**path**. An operation that one path enters is transparent (activations, normalizations, reshapes, constants,
positional embeddings). An operation that two or more different paths enter is a node.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from qsd.denoisers.exporting import Program, module_path
from qsd.denoisers.graph import WEIGHT

_TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_WEIGHT_OPS = {
    *("linear", "addmm", "mm", "matmul", "bmm", "_grouped_mm", "grouped_mm"),
    *("conv1d", "conv2d", "conv3d", "convolution", *_TRANSPOSED),
}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "mm", "einsum"}
_SOFTMAX = {"softmax", "_softmax", "_safe_softmax"}
_ATTENTION = {"scaled_dot_product_attention"}
_SAME_VALUES = {
    "to",
    "_to_copy",
    "t",
    "transpose",
    "permute",
    "view",
    "reshape",
    "unsqueeze",
    "detach",
    "alias",
    "select",
}
_SHAPE_OF_FIRST = {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"}
_DATA_OF_FIRST = {"to", "type_as", "expand_as", "view_as", "reshape_as"}
_KIND_OF_OP = {
    **dict.fromkeys(("add", "sub", "rsub", "lerp", "addcmul"), "add"),
    **dict.fromkeys(("mul", "div", "pow"), "mul"),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), "concat"),
    **dict.fromkeys(_PRODUCTS, "matmul"),
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm"), "norm"),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of channels of a concatenation and the path it came from."""

    start: int
    stop: int
    path: int | None


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known about one value of the program.

    Attributes:
        path: index of the raw node it came from; None for inputs, constants and parameters.
        weight: path of the module whose weight it is, up to casts and views.
        axis: axis along which it is a concatenation of ``parts``.
        parts: consecutive ranges along ``axis``.
        is_score: it comes from a softmax.
    """

    path: int | None = None
    weight: str | None = None
    axis: int = 0
    parts: tuple[Part, ...] = ()
    is_score: bool = False


@dataclasses.dataclass
class RawNode:
    """A node before naming.

    Attributes:
        kind: see :class:`qsd.denoisers.graph.Node`.
        module: the module that ran it; of a weight node the module that holds the weight.
        inputs: indices of raw nodes.
        segment: range of input channels of the weight.
    """

    kind: str
    module: str
    inputs: list[int]
    segment: tuple[int, int] | None = None


class Contraction:
    """Contracts a traced program.

    Attributes:
        nodes: raw nodes in execution order.
        output: index of the node that the program's outputs come from, None if from no weight.
    """

    def __init__(self, program: Program, weights: Mapping[str, str]) -> None:
        """Contracts at once.

        Args:
            program: the traced forward.
            weights: path of each weight parameter -> path of its module (one path for tied modules).
        """
        self.nodes: list[RawNode] = []
        self.output: int | None = None
        self._values: dict[fx.Node, Value] = {}
        self._calls: dict[tuple[str, tuple[int, int] | None, int | None], int] = {}
        for node in program.graph.nodes:
            if node.op == "output":
                self.output = self._join_outputs(program.outputs)
            elif node.op == "call_function":
                self._values[node] = self._call(node)
                self._write_back(node)
            else:
                path = program.parameters.get(node.name)
                self._values[node] = Value(weight=weights.get(path or ""))

    def _join_outputs(self, outputs: tuple[fx.Node, ...]) -> int | None:
        """One node for all that the forward returns, such as a video and its sound."""
        paths = distinct(self._values[output].path for output in outputs)
        if len(paths) < 2:
            return paths[0] if paths else None
        self.nodes.append(RawNode("join", "", paths))
        return len(self.nodes) - 1

    def _call(self, node: fx.Node) -> Value:
        operation = operation_name(node)
        if operation in _SHAPE_OF_FIRST or operation.startswith("new_"):
            return Value()
        arguments = [self._values[source] for source in _data_sources(node, operation)]
        weight = next((value.weight for value in arguments if value.weight is not None), None)
        if weight is not None:
            if operation in _WEIGHT_OPS:
                return self._apply_weight(node, weight)
            if len(arguments) == 1 and operation in _SAME_VALUES:
                return arguments[0]
        if operation in _ATTENTION:
            return self._attend(node)
        paths = distinct(value.path for value in arguments)
        if operation in _PRODUCTS and sum(value.path is not None for value in arguments) >= 2:
            kind = "sv" if any(value.is_score for value in arguments) else "matmul"
            return Value(self._emit(kind, node, paths))
        if len(paths) >= 2:
            joined = self._emit(_KIND_OF_OP.get(operation, "join"), node, paths)
            return self._concatenation(node, joined) if self.nodes[joined].kind == "concat" else Value(joined)
        return self._pass_through(node, operation, arguments, paths)

    def _pass_through(self, node: fx.Node, operation: str, arguments: list[Value], paths: list[int]) -> Value:
        if not paths:
            return Value()
        source = next(
            argument for argument in node.all_input_nodes if self._values[argument].path is not None
        )
        value = self._values[source]
        is_score = any(argument.is_score for argument in arguments)
        if operation in _SOFTMAX:
            is_score = True
            if self.nodes[paths[0]].kind == "matmul":
                self.nodes[paths[0]].kind = "qk"
        axis = _follow_axis(value.axis, source, node, operation) if value.parts else None
        if axis is None:
            return Value(paths[0], is_score=is_score)
        return Value(paths[0], axis=axis, parts=value.parts, is_score=is_score)

    def _apply_weight(self, node: fx.Node, weight: str) -> Value:
        source: Any = node.args[1 if operation_name(node) == "addmm" else 0]
        value = self._values[source]
        rank = len(source.meta["val"].shape)
        channel_axis = 1 if operation_name(node).startswith("conv") else rank - 1
        channels = int(source.meta["val"].shape[channel_axis])
        sources = {part.path for part in value.parts}
        covers_weight = bool(value.parts) and value.axis == channel_axis and value.parts[-1].stop == channels
        is_transposed = operation_name(node) in _TRANSPOSED
        if not covers_weight or len(sources) < 2 or _groups(node) > 1 or is_transposed:
            return Value(self._emit_weight(node, weight, None, value.path))
        partial_sums = [
            self._emit_weight(node, weight, (part.start, part.stop), part.path) for part in value.parts
        ]
        return Value(self._emit("add", node, partial_sums))

    def _emit_weight(
        self, node: fx.Node, weight: str, segment: tuple[int, int] | None, path: int | None
    ) -> int:
        """Emits a weight node, or finds the node that already applies this weight to this path."""
        call = (weight, segment, path)
        if call not in self._calls:
            self.nodes.append(RawNode(WEIGHT, weight, [] if path is None else [path], segment))
            self._calls[call] = len(self.nodes) - 1
        return self._calls[call]

    def _attend(self, node: fx.Node) -> Value:
        tensors = [
            argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, fx.Node)
        ]
        query, key, value, *mask = (self._values[tensor].path for tensor in tensors)
        scores = self._emit("qk", node, distinct([query, key, *mask]))
        return Value(self._emit("sv", node, distinct([scores, value])))

    def _concatenation(self, node: fx.Node, joined: int) -> Value:
        """The value of a concatenation, with the ranges that its inputs, themselves perhaps joined, fill."""
        if operation_name(node) == "stack":
            return Value(joined)
        tensors: Any = node.args[0]
        rank = len(node.meta["val"].shape)
        axis = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % rank  # type: ignore[arg-type]
        parts: list[Part] = []
        for tensor in tensors:
            value, start = self._values[tensor], parts[-1].stop if parts else 0
            size = int(tensor.meta["val"].shape[axis])
            inner = value.parts if value.axis == axis and value.parts else (Part(0, size, value.path),)
            for part in inner:
                if parts and parts[-1].path == part.path:
                    parts[-1] = Part(parts[-1].start, start + part.stop, part.path)
                else:
                    parts.append(Part(start + part.start, start + part.stop, part.path))
        return Value(joined, axis=axis, parts=tuple(parts))

    def _write_back(self, node: fx.Node) -> None:
        """An operation in place changes its first argument, and whatever that argument is a view of."""
        target: Any = node.args[0] if is_in_place(node) else None
        written = self._values[node]
        while isinstance(target, fx.Node):
            is_part = target is not node.args[0]
            self._values[target] = Value(self._fill(node, target, written.path)) if is_part else written
            target = target.args[0] if _is_view(target) else None

    def _fill(self, node: fx.Node, buffer: fx.Node, path: int | None) -> int | None:
        """The path of a buffer once data of ``path`` is written into a part of it."""
        before = self._values[buffer].path
        paths = distinct([before, path])
        if len(paths) < 2:
            return paths[0] if paths else None
        is_filled_already = self.nodes[paths[0]].kind == "concat" and path in self.nodes[paths[0]].inputs
        return before if is_filled_already else self._emit("concat", node, paths)

    def _emit(self, kind: str, node: fx.Node, inputs: list[int]) -> int:
        self.nodes.append(RawNode(kind, module_path(node), list(inputs)))
        return len(self.nodes) - 1


def operation_name(node: fx.Node) -> str:
    """Name of an ATen operation without its overload and without the in-place underscore."""
    target = node.target
    name = target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else str(target)
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def is_in_place(node: fx.Node) -> bool:
    """Whether the operation changes its first argument."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.arguments:
        return False
    alias = target._schema.arguments[0].alias_info
    return alias is not None and alias.is_write


def distinct(paths: Any) -> list[int]:
    """The different paths, None left out, in order of first appearance."""
    return list(dict.fromkeys(path for path in paths if path is not None))


def _data_sources(node: fx.Node, operation: str) -> list[fx.Node]:
    """The arguments whose data, not just whose shape or memory, the result depends on."""
    if operation in _DATA_OF_FIRST:
        return node.all_input_nodes[:1]
    return node.all_input_nodes[1:] if operation == "copy" else node.all_input_nodes


def _is_view(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.arguments:
        return False
    alias = target._schema.arguments[0].alias_info
    return alias is not None and not alias.is_write


def _groups(node: fx.Node) -> int:
    position = 8 if operation_name(node) == "convolution" else 6
    if not operation_name(node).startswith("conv"):
        return 1
    groups: Any = node.args[position] if len(node.args) > position else node.kwargs.get("groups", 1)
    return int(groups)


def _follow_axis(axis: int, source: fx.Node, node: fx.Node, operation: str) -> int | None:
    """Where an axis of the source stands in the result of a one-path operation; None when it is gone."""
    before, after = _shape(source), _shape(node)
    if after is None or before is None:
        return None
    rank = len(before)
    if operation == "permute":
        order: Any = node.args[1]
        return [dim % rank for dim in order].index(axis)
    if operation in ("transpose", "t"):
        first, second = (0, 1) if operation == "t" else (int(node.args[1]) % rank, int(node.args[2]) % rank)  # type: ignore[arg-type]
        return {first: second, second: first}.get(axis, axis)
    if before == after:
        return axis
    place = (math.prod(before[:axis]), before[axis])
    return next((dim for dim, size in enumerate(after) if (math.prod(after[:dim]), size) == place), None)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else None
