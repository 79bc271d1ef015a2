"""Safetensors files with a JSON description and a content hash per tensor."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qsd.support.documents import check_hash, parse_json, with_hash
from qsd.support.errors import QsdError, first_line
from qsd.support.files import atomic
from qsd.support.hashing import bytes_hash, verifying

KEY = "qsd"
"""Of the description in the metadata of a file."""

_MAPPED_BYTES = 1 << 28


def tensor_hash(tensor: Tensor) -> str:
    """The hash of a tensor: of its dtype, shape and values in row-major order."""
    flat = _plain(tensor).reshape(-1)
    described = f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"
    return bytes_hash(described.encode(), flat.view(torch.uint8).numpy().data)


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, one value behind the other; an axis of length 1 may have any stride and count as such."""
    tensor = tensor.detach().to("cpu").contiguous()
    if tensor.ndim and tensor.stride(-1) != 1:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; floats of 8 bits are asked through float32."""
    if not tensor.is_floating_point():
        return True
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Writes tensors and what they mean, whole or not at all.

    Args:
        path: destination.
        tensors: by name.
        meta: JSON content with ``format`` and ``version``; the hashes of the tensors are added to it.

    Returns:
        The hash of the description, and thereby of all tensors.
    """
    stored = {name: _plain(tensor) for name, tensor in tensors.items()}
    hashes = {name: tensor_hash(tensor) for name, tensor in stored.items()}
    document = with_hash({**meta, "hashes": hashes})
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    with atomic(path) as temporary:
        save_file(stored, temporary, metadata={KEY: text})
    return document["hash"]


class TensorFile:
    """A file that :func:`save_tensors` wrote, memory-mapped: a tensor is read, and checked, when asked for.

    Attributes:
        path: the file.
        meta: its description.
        names: of its tensors.
    """

    def __init__(self, path: Path, meta: dict[str, Any], file: Any, remedy: str) -> None:
        self.path = path
        self.meta = meta
        self.names = list(file.keys())
        self._file = file
        self._hashes: dict[str, str] = meta.get("hashes", {})
        self._remedy = remedy

    def tensor(self, name: str) -> Tensor:
        """Reads a tensor.

        Raises:
            QsdError: there is none of that name, or it is not what was written.
        """
        if name not in self.names:
            raise QsdError(f"{self.path}: has no tensor '{name}'; {self._remedy}")
        tensor = self._file.get_tensor(name)
        if verifying():
            self._check(name, tensor)
        return tensor

    def mapped(self, name: str) -> Tensor:
        """A tensor whose values stay in the file until they are used; nothing is checked."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def verify(self, *, holes: Collection[str] = ()) -> None:
        """Compares every tensor with its hash; of a large file only a part is in memory at a time.

        Args:
            holes: tensors in which NaN means that there is nothing.

        Raises:
            QsdError: a tensor is not what was written, or holds a value that is not finite.
        """
        names, position = self.names, 0
        while position < len(names):
            mapped = 0
            with safe_open(self.path, "pt") as part:  # closing it gives back what was read
                while position < len(names) and mapped < _MAPPED_BYTES:
                    tensor = part.get_tensor(names[position])
                    self._check(names[position], tensor)
                    if names[position] not in holes and not all_finite(tensor):
                        raise QsdError(
                            f"{self.path}: damaged (tensor '{names[position]}' is not finite); {self._remedy}"
                        )
                    mapped, position = mapped + tensor.nbytes, position + 1
                del tensor

    def _check(self, name: str, tensor: Tensor) -> None:
        if self._hashes and self._hashes.get(name) != tensor_hash(tensor):
            raise QsdError(f"{self.path}: tensor '{name}' differs from its hash (damaged); {self._remedy}")


@contextlib.contextmanager
def open_tensors(path: str | Path, formats: Mapping[str, int], remedy: str) -> Iterator[TensorFile]:
    """Opens a file.

    Args:
        path: the file.
        formats: name of the format it must have, and from which version on hashes must be there.
        remedy: for messages: what to do about a damaged file.

    Raises:
        QsdError: it is truncated or damaged, or of another format.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY, "{}")
            meta = parse_json(text, path, remedy)
            kind = meta.get("format") if isinstance(meta, dict) else None
            version = meta.get("version") if isinstance(meta, dict) else None
            if not isinstance(kind, str) or kind not in formats or type(version) is not int or version < 1:
                raise QsdError(f"{path}: not a {' or '.join(formats)}; {remedy}")
            if version >= formats[kind] or {"hash", "hashes"} & meta.keys():
                check_hash(meta, path, remedy)
            yield TensorFile(path, meta, file, remedy)
    except (SafetensorError, OSError) as error:
        raise QsdError(f"{path}: truncated or damaged ({first_line(error)}); {remedy}") from error
