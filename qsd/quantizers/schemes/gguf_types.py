"""Block types of GGUF files (llama.cpp, stable-diffusion.cpp, ComfyUI-GGUF), as libgguf quantizes them."""

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsd.quantizers.amplitude import gain
from qsd.quantizers.coding import saturated
from qsd.quantizers.option import Option, Rows, Spelling, Stored, Tensors, Traits, only, scheme
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class _Block:
    """Weights and bytes of a block; bits of a code, weights that share a scale, the grid."""

    weights: int
    num_bytes: int
    bits: float
    group: int
    grid: Any = "uniform"
    symmetric: bool = True
    scale_bits: int = 16


_BLOCKS = {
    "q8_0": _Block(32, 34, 8, 32),
    "q6_k": _Block(256, 210, 6, 16, scale_bits=8),
    "q5_k": _Block(256, 176, 5, 32, symmetric=False, scale_bits=6),
    "q5_0": _Block(32, 22, 5, 32),
    "q4_k": _Block(256, 144, 4, 32, symmetric=False, scale_bits=6),
    "q4_1": _Block(32, 20, 4, 32, symmetric=False),
    "q4_0": _Block(32, 18, 4, 32),
    "iq4_xs": _Block(256, 136, 4, 32, grid="codebook", scale_bits=6),
    "iq4_nl": _Block(32, 18, 4, 32, grid="codebook"),
    "q3_k": _Block(256, 110, 3, 16, scale_bits=6),
    "iq3_s": _Block(256, 110, 3.25, 32, grid="codebook", scale_bits=4),
    "q2_k": _Block(256, 84, 2, 16, symmetric=False, scale_bits=4),
}
_INSTALL = "pip install 'qsd[gguf]'"


@scheme(*_BLOCKS)
@dataclasses.dataclass(frozen=True)
class GgufType(Option):
    """The bytes that a GGUF file holds. Only matrices whose rows are whole blocks can be stored so.

    Amplitude is given back by quantizing the weight stretched, which stretches the scales and leaves the
    codes what they were.

    Attributes:
        name: of the type, in lower case.
    """

    grammar = " ".join(_BLOCKS)

    name: str

    @classmethod
    def spelled(cls, spelling: Spelling) -> "GgufType":
        only(spelling.flags, ())
        if spelling.bits is not None or spelling.group:
            raise ValueError("a GGUF type has no settings")
        return cls(spelling.name)

    def __str__(self) -> str:
        return self.name

    @property
    def _block(self) -> _Block:
        return _BLOCKS[self.name]

    @property
    def traits(self) -> Traits:
        block = self._block
        return Traits(
            bits=block.bits,
            grid=block.grid,
            scope="group",
            group=block.group,
            symmetric=block.symmetric,
            scale_bits=block.scale_bits,
        )

    @property
    def carriers(self) -> frozenset[str]:
        return frozenset({"gguf"})

    @property
    def missing(self) -> str | None:
        return None if importlib.util.find_spec("libgguf") else _INSTALL

    def accepts(self, shape: Sequence[int]) -> bool:
        return len(shape) == 2 and shape[1] % self._block.weights == 0

    def layout(self, shape: Sequence[int]) -> dict[str, Stored]:
        per_row = shape[1] // self._block.weights * self._block.num_bytes
        return {"blocks": Stored((shape[0], per_row), (torch.uint8,))}

    def quantize(self, rows: Rows) -> dict[str, Tensor]:
        values = rows.values.cpu()
        first = self._read(self._written(values), rows.shape)
        stretched = values * gain(values, first, compiled=rows.compiled).float()[:, None]
        return {"blocks": self._written(stretched).to(rows.values.device)}

    def _written(self, values: Tensor) -> Tensor:
        libgguf = _library()
        blocks = libgguf.quantize_rows(np.ascontiguousarray(values.numpy()), self._type)
        return torch.from_numpy(np.array(blocks, dtype=np.uint8).reshape(len(values), -1))

    def _read(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        libgguf = _library()
        values = libgguf.dequantize_rows(np.ascontiguousarray(blocks.cpu().numpy()), self._type)
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(tuple(shape)))

    @property
    def _type(self) -> Any:
        return _library().GGMLQuantizationType[self.name.upper()]

    def dequantize(self, tensors: Tensors, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        blocks = tensors["blocks"]
        return saturated(self._read(blocks, shape), dtype).to(blocks.device)


@functools.cache
def _library() -> Any:
    try:
        import libgguf
    except ImportError:
        raise QsdError(f"GGUF types need the package libgguf, which is not installed: {_INSTALL}") from None
    return libgguf
