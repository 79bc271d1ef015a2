"""What a ranker is trained to predict: an arithmetic expression over the labels of a store."""

import ast
import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qsd.store import Store
from qsd.support.errors import QsdError

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "log": (np.log, 1),
    "exp": (np.exp, 1),
    "sqrt": (np.sqrt, 1),
    "abs": (np.abs, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
}
_GRAMMAR = f"use label names, numbers, + - * / **, parentheses and {', '.join(_FUNCTIONS)}"


@dataclasses.dataclass(frozen=True)
class TargetValues:
    """A target evaluated on a store.

    Attributes:
        values: float64 [R]; NaN where ``valid`` is False.
        valid: bool [R]; False where a label that the target needs is missing or the value is not finite.
        message: what was skipped, for the user; empty when nothing was.
    """

    values: np.ndarray
    valid: np.ndarray
    message: str


class Target:
    """A parsed expression such as ``-fid - 150*avg_bits``; larger values are better.

    The text is parsed with :mod:`ast` and walked over a fixed list of node types; nothing is executed.

    Attributes:
        text: the expression.
        names: the quantities that it reads, in order of first use.

    Raises:
        QsdError: the text is not such an expression, or reads no quantity at all.
    """

    def __init__(self, text: str) -> None:
        self.text = str(text).strip()
        try:
            self._tree: ast.expr = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise QsdError(f"target {self.text!r}: not an expression; {_GRAMMAR}") from error
        names: dict[str, None] = {}
        self._check(self._tree, names)
        self.names = tuple(names)
        if not names:
            raise QsdError(f"target {self.text!r}: reads no label, so it ranks nothing; {_GRAMMAR}")

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluates on arrays of one shape; undefined results (log of a negative) are NaN or infinite."""
        with np.errstate(all="ignore"):
            return np.asarray(self._value(self._tree, values), dtype=np.float64)

    def evaluate(self, store: Store) -> TargetValues:
        """Evaluates on all records of a store.

        Raises:
            QsdError: a name is neither a label of the store nor ``avg_bits`` nor ``bytes``; the store is
                empty; no record has a value; or all values are equal, so that there is nothing to rank.
        """
        if not len(store.records):
            raise QsdError(f"{store.path}: holds no records; label some with `qsd label`")
        known = [*store.header.label_names, "avg_bits", "bytes"]
        for name in self.names:
            if name not in known:
                raise QsdError(
                    f"target {self.text!r}: {store.path} has no {name!r}; it has {', '.join(known)}"
                )
        values = self({name: store.values(name) for name in self.names})
        valid = np.isfinite(values)
        if not valid.any():
            raise QsdError(f"{store.path}: no record has a finite {self.text!r}; choose another target")
        present = values[valid]
        if len(present) > 1 and np.ptp(present) <= 1e-12 * np.abs(present).max():
            raise QsdError(
                f"{store.path}: {self.text!r} is the same for all records, so there is nothing to rank; "
                "choose another target"
            )
        skipped = int((~valid).sum())
        message = f"{store.path}: {skipped} of {len(values)} records skipped, no finite {self.text!r}"
        return TargetValues(np.where(valid, values, np.nan), valid, message if skipped else "")

    def _check(self, node: ast.expr, names: dict[str, None]) -> None:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                children = [left, right]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                children = [operand]
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if (
                name in _FUNCTIONS and len(args) == _FUNCTIONS[name][1]
            ):
                children = args
            case ast.Name(id=name):
                names[name] = None
                children = []
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                children = []
            case _:
                part = ast.get_source_segment(self.text, node) or self.text
                raise QsdError(f"target {self.text!r}: cannot read {part!r}; {_GRAMMAR}")
        for child in children:
            self._check(child, names)

    def _value(self, node: ast.expr, values: Mapping[str, np.ndarray]) -> Any:
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._value(left, values), self._value(right, values))
            case ast.UnaryOp(op=op, operand=operand):
                return _UNARY[type(op)](self._value(operand, values))
            case ast.Call(func=ast.Name(id=name), args=args):
                return _FUNCTIONS[name][0](*(self._value(argument, values) for argument in args))
            case ast.Name(id=name):
                return values[name]
            case ast.Constant(value=value):
                return float(value)  # type: ignore[arg-type]
        raise AssertionError("checked when parsed")
