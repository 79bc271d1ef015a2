"""An option: one way in which a weight layer can be stored, with all its settings, written as text."""

import dataclasses
import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from qsd.support.errors import QsdError

Grid = Literal["uniform", "codebook", "float", "full"]
Scope = Literal["tensor", "row", "group"]

HALF = (torch.float16, torch.bfloat16)
"""Types of numbers stored in 16 bits; which of them depends on the weight's own type and range."""


@dataclasses.dataclass(frozen=True)
class Traits:
    """What an option is like, in terms that every scheme shares; rankers see options through these.

    Attributes:
        bits: bits of one code; 16 for a layer that is not quantized.
        grid: how values lie: evenly, as a codebook has them, as floating-point codes do, or unquantized.
        scope: what shares one scale or codebook.
        group: neighbouring inputs that share a scale or codebook; 0 where a row or the tensor does.
        symmetric: whether the grid is centred at zero.
        scale_bits: bits of one scale, 0 where there is none.
        rotated: whether the weight is rotated before it is quantized.
        rank: of the low-rank part that is added.
    """

    bits: float
    grid: Grid
    scope: Scope
    group: int = 0
    symmetric: bool = False
    scale_bits: int = 0
    rotated: bool = False
    rank: int = 0

    @property
    def keep(self) -> bool:
        """Whether the layer is not quantized."""
        return self.grid == "full"


@dataclasses.dataclass(frozen=True)
class Stored:
    """Size and possible types of one stored tensor."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]

    @property
    def num_bytes(self) -> int:
        """Exact bytes; all possible types are equally wide."""
        return math.prod(self.shape) * self.dtypes[0].itemsize


@dataclasses.dataclass(frozen=True)
class Rows:
    """A weight to quantize, as a matrix with one row per output channel.

    Attributes:
        values: float32 [O, n], finite.
        shape: of the weight, whose dimension 0 is O.
        storage: float16 or bfloat16, for scales, codebooks and other numbers of 16 bits.
        compiled: whether to use the numba kernels, on the CPU.
    """

    values: Tensor
    shape: tuple[int, ...]
    storage: torch.dtype
    compiled: bool

    @property
    def limit(self) -> float:
        """Largest number of the storage type."""
        return torch.finfo(self.storage).max

    def stored(self, values: Tensor) -> Tensor:
        """Values in the storage type, saturated."""
        return values.clamp(-self.limit, self.limit).to(self.storage)


@dataclasses.dataclass(frozen=True)
class Spelling:
    """The parts of an option's text without wrappers: ``NAME-BITSgGROUP:FLAG:FLAG``."""

    name: str
    bits: int | None
    group: int
    flags: tuple[str, ...]


Tensors = Mapping[str, Tensor]


class Option(ABC):
    """One way to store a weight. Subclasses are the schemes: frozen dataclasses whose fields are settings.

    Two options are equal if their texts are. A scheme is registered by name (:func:`scheme`); nothing outside
    of its file knows the name.
    """

    grammar: ClassVar[str]
    """How the scheme's options are written, for messages and docs."""
    limits: ClassVar[str] = ""
    """Which numbers they can have, likewise."""

    @classmethod
    def parse(cls, text: str) -> "Option":
        """Reads the text form, for example ``kmeans_c-3`` or ``hadamard+uaq-4g64``.

        Raises:
            QsdError: If the text names no scheme, or settings that the scheme does not have.
        """
        return _parse(text.strip())

    @classmethod
    def spelled(cls, spelling: Spelling) -> Self:
        """The option of a spelling whose name is registered for this class.

        Raises:
            ValueError: The scheme has no such settings.
        """
        raise NotImplementedError

    @abstractmethod
    def __str__(self) -> str:
        """The text form; :meth:`parse` restores an equal option."""

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What the option is like."""

    @property
    def carriers(self) -> frozenset[str]:
        """Names of the export formats that can hold a layer in this option, beside qsd's own."""
        return frozenset()

    @property
    def missing(self) -> str | None:
        """What to install before weights can be quantized so; None if nothing is missing."""
        return None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a weight of that shape can be stored so."""
        return True

    @abstractmethod
    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        """The tensors that a weight of that shape is stored as, by name."""

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Exact bytes of a weight of that shape: codes, codebooks, scales, all that is stored."""
        return sum(stored.num_bytes for stored in self.layout(shape).values())

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        """The tensors of a weight, as :meth:`layout` has them."""
        return type(self).quantize_together([self], rows)[self]

    @classmethod
    def quantize_together(cls, options: Sequence[Self], rows: Rows) -> dict["Option", dict[str, Tensor]]:
        """The tensors of a weight in several options of this scheme; a scheme shares work here if it can."""
        return {option: option.quantize(rows) for option in options}

    def table(self, tensors: Tensors, count: int, dtype: torch.dtype) -> Tensor | None:
        """The values of all codes, where the weight is those of the packed tensor ``codes`` and no more.

        Args:
            tensors: of a weight.
            count: its number of weights.
            dtype: of the values; they saturate.

        Returns:
            [units, 2^bits] with one row for each of so many equal runs of the weight, or None: the scheme has
            no such form, or the table would be larger than the weight.
        """
        return None

    def decode(self, tensors: Tensors, shape: Sequence[int], out: Tensor) -> bool:
        """Writes the weight in a way that is faster than :meth:`table` or :meth:`dequantize`.

        Args:
            tensors: of a weight, on the CPU.
            shape: of the weight.
            out: contiguous, as many values, of the wanted dtype; beyond its range they saturate.

        Returns:
            Whether it was done; if not, ``out`` may hold anything.
        """
        return False

    def grid(self, tensors: Tensors, units: int) -> tuple[Tensor, Tensor] | None:
        """Where the grid of each unit lies, if the weight is ``(code - zero) * scale``.

        Args:
            tensors: of a weight.
            units: number of rows or groups that have a scale each.

        Returns:
            Scales and codes of zero, float32 [units] each, or None: the scheme has no such form.
        """
        return None

    def core(self, tensors: Tensors, shape: Sequence[int]) -> tuple["Option", Callable[[Tensor], Tensor]]:
        """The option inside of what stands around it, and what that does to its weight.

        Args:
            tensors: of a weight; those of what stands around are constants of the function.
            shape: of the weight.

        Returns:
            An option of which every weight depends on one entry of each table, and a differentiable function
            from its weight, float32 in that shape, to this option's.
        """
        return self, lambda values: values

    @abstractmethod
    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The weight that tensors stand for; values beyond the range of ``dtype`` saturate."""


SCHEMES: dict[str, type[Option]] = {}
"""Name -> class of every scheme without wrappers."""
WRAPPERS: list[Callable[[str], Option | None]] = []
"""Readers of texts such as ``hadamard+...``: an option, or None if the text is not of that form."""

_NUMBER = "[1-9][0-9]{0,8}"
_SPELLED = re.compile(rf"([a-z][a-z0-9_]*?)(?:-({_NUMBER}))?(?:g({_NUMBER}))?((?::[a-z0-9]+)*)", re.ASCII)
_SHOWN = 60  # characters of a text in a message
_Scheme = TypeVar("_Scheme", bound=type[Option])


def scheme(*names: str) -> Callable[[_Scheme], _Scheme]:
    """Registers a scheme under names."""

    def register(cls: _Scheme) -> _Scheme:
        SCHEMES.update(dict.fromkeys(names, cls))
        return cls

    return register


def number_of(bits: int | None, low: int, high: int) -> int:
    """Bits that a spelling must state.

    Raises:
        ValueError: It does not, or they are out of range.
    """
    if bits is None or not low <= bits <= high:
        raise ValueError(f"bits from {low} to {high}")
    return bits


def only(found: Iterable[str], known: Iterable[str]) -> set[str]:
    """Flags as a set.

    Raises:
        ValueError: One is unknown or stands twice.
    """
    flags = list(found)
    if len(set(flags)) < len(flags) or not set(flags) <= set(known):
        raise ValueError("flags")
    return set(flags)


@functools.cache
def _parse(text: str) -> Option:
    for read in WRAPPERS:
        wrapped = read(text)
        if wrapped is not None:
            return wrapped
    match = _SPELLED.fullmatch(text)
    if match is None or match[1] not in SCHEMES:
        raise QsdError(f"unknown quantization option '{shortened(text)}': {_remedy(text)}")
    bits, group = (None if digits is None else int(digits) for digits in (match[2], match[3]))
    flags = tuple(match[4].split(":")[1:])
    try:
        return SCHEMES[match[1]].spelled(Spelling(match[1], bits, group or 0, flags))
    except ValueError:
        raise QsdError(f"unknown quantization option '{shortened(text)}': {_remedy(text)}") from None


def shortened(text: str) -> str:
    """A text as a message shows it, on one line that can be read."""
    plain = text if text.isprintable() else repr(text)[1:-1]
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}..."


def _remedy(text: str) -> str:
    """What to write in place of a text that is no option."""
    small = text.lower()
    if small != text and _SPELLED.fullmatch(small) is not None:
        return f"options are written in small letters, '{shortened(small)}'"
    named = max((name for name in SCHEMES if small.startswith(name)), key=len, default=None)
    if named is None:
        grammars = dict.fromkeys(found.grammar for found in SCHEMES.values())
        return f"write one of {', '.join([*grammars, 'hadamard+OPTION, OPTION+rRANK'])}"
    found = SCHEMES[named]
    return f"write {found.grammar}" + (f" ({found.limits})" if found.limits else "")
