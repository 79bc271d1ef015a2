"""Writes a safetensors file tensor by tensor, in any order, so that never all of it is held."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qsd.support.documents import with_hash
from qsd.support.errors import QsdError
from qsd.support.files import atomic
from qsd.support.hashing import DIGEST_SIZE
from qsd.support.tensors import KEY, tensor_hash

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_NO_HASH = "0" * (2 * DIGEST_SIZE)
_ALIGNMENT = 8


class Planned(NamedTuple):
    """A tensor to come.

    Attributes:
        shape: its shape.
        dtypes: what it may be of, all of one size.
    """

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return self.dtypes[0].itemsize * torch.Size(self.shape).numel()


class TensorWriter:
    """A file in the making; see :func:`writing_tensors`."""

    def __init__(self, handle: int, planned: Mapping[str, Planned], meta: Mapping[str, Any]) -> None:
        self._handle = handle
        self._planned = dict(planned)
        self._meta = dict(meta)
        self._hashes: dict[str, str] = {}
        self._types: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        end = 0
        for name in sorted(planned, key=lambda name: (-planned[name].dtypes[0].itemsize, name)):
            self._offsets[name] = end
            end += planned[name].num_bytes
        longest = {name: max((_NAMES[d] for d in tensor.dtypes), key=len) for name, tensor in planned.items()}
        header = self._header(longest, dict.fromkeys(planned, _NO_HASH))
        self._header_size = -(-len(header) // _ALIGNMENT) * _ALIGNMENT
        os.truncate(handle, 8 + self._header_size + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes one tensor to its place.

        Raises:
            QsdError: it is none that was planned, or of another shape or type.
        """
        planned = self._planned.get(name)
        if planned is None or tuple(tensor.shape) != planned.shape or tensor.dtype not in planned.dtypes:
            raise QsdError(f"tensor '{name}' is {tensor.dtype} {tuple(tensor.shape)}, not {planned}")
        tensor = tensor.detach().to("cpu").contiguous()
        _write(self._handle, _bytes(tensor), 8 + self._header_size + self._offsets[name])
        self._hashes[name] = tensor_hash(tensor)
        self._types[name] = _NAMES[tensor.dtype]

    def finish(self) -> None:
        """Writes the header.

        Raises:
            QsdError: a tensor is missing.
        """
        missing = next((name for name in self._planned if name not in self._hashes), None)
        if missing is not None:
            raise QsdError(f"tensor '{missing}' was never written")
        header = self._header(self._types, self._hashes).ljust(self._header_size)
        _write(self._handle, memoryview(len(header).to_bytes(8, "little") + header), 0)

    def _header(self, types: Mapping[str, str], hashes: Mapping[str, str]) -> bytes:
        document = with_hash({**self._meta, "hashes": dict(hashes)})
        header: dict[str, Any] = {
            "__metadata__": {KEY: json.dumps(document, sort_keys=True, allow_nan=False)}
        }
        for name, start in self._offsets.items():
            planned = self._planned[name]
            header[name] = {
                "dtype": types[name],
                "shape": list(planned.shape),
                "data_offsets": [start, start + planned.num_bytes],
            }
        return json.dumps(header, separators=(",", ":")).encode()


@contextlib.contextmanager
def writing_tensors(
    path: str | Path, planned: Mapping[str, Planned], meta: Mapping[str, Any]
) -> Iterator[TensorWriter]:
    """Begins a file like those of :func:`qsd.support.tensors.save_tensors`, whole or not at all.

    Args:
        path: destination.
        planned: by name, all tensors that will be written inside the block.
        meta: as for ``save_tensors``; the hashes are added to it.

    Raises:
        QsdError: a tensor was not written.
    """
    with atomic(path) as temporary:
        handle = os.open(temporary, os.O_RDWR)
        try:
            writer = TensorWriter(handle, planned, meta)
            yield writer
            writer.finish()
        finally:
            os.close(handle)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _write(handle: int, content: memoryview, offset: int) -> None:
    while len(content):
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written
