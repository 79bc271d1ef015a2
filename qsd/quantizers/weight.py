"""A quantized weight: packed codes and a codebook, whatever the method."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qsd.quantizers.options import Option
from qsd.quantizers.packing import packed_bytes, unpack
from qsd.support.errors import QsdError

CACHED_WEIGHTS = 1 << 15  # the 64-bit indices of as many weights stay in a core's own cache

STORED_DTYPES = {
    "codes": (torch.uint8,),
    "scale": (torch.float16, torch.bfloat16),
    "zero_point": (torch.int16,),
    "codebook": (torch.float16, torch.bfloat16),
}


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One weight in one option.

    Attributes:
        option: Method and bits.
        shape: Shape of the original weight; dimension 0 holds the output channels.
        packed: uint8 codes in the layout of :mod:`qsd.quantizers.packing`.
        parameters: What the method stores beside the codes. UAQ: ``scale`` (16-bit float [O]) and
            ``zero_point`` (int16 [O]). K-Means: ``codebook`` (16-bit float [O, 2^bits] or [1, 2^bits],
            ascending; if a channel needs fewer levels the last one repeats).
    """

    option: Option
    shape: tuple[int, ...]
    packed: Tensor
    parameters: dict[str, Tensor]

    @cached_property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Exact bytes of everything stored: packed codes and the method's parameters."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def codes(self) -> Tensor:
        """Unpacked codes, uint8, in the shape of the weight."""
        return unpack(self.packed, self.option.bits, self.numel).view(self.shape)

    def codebook(self) -> Tensor:
        """The values that codes stand for, float32 [O or 1, 2^bits]."""
        if self.option.method != "uaq":
            return self.parameters["codebook"].float()
        return affine_codebook(self.parameters["scale"], self.parameters["zero_point"], self.option.bits)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the codes stand for, in its original shape.

        Values beyond the range of ``dtype`` saturate.
        """
        limit = torch.finfo(dtype).max
        book = self.codebook().clamp(-limit, limit).to(dtype)
        return lookup(book, self.codes())

    def to(self, device: torch.device | str) -> "QuantizedWeight":
        """The same weight with its tensors on another device."""
        parameters = {name: tensor.to(device) for name, tensor in self.parameters.items()}
        return QuantizedWeight(self.option, self.shape, self.packed.to(device), parameters)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is stored, by name: ``codes`` (packed) and the method's parameters."""
        return {"codes": self.packed, **self.parameters}

    @classmethod
    def from_tensors(
        cls, option: Option, shape: tuple[int, ...], tensors: dict[str, Tensor]
    ) -> "QuantizedWeight":
        """The inverse of :meth:`tensors`.

        Raises:
            QsdError: If a tensor is missing or has another size or type than option and shape ask for.
        """
        rows = 1 if option.method == "kmeans_a" else shape[0]
        sizes: dict[str, tuple[int, ...]] = {"codes": (packed_bytes(math.prod(shape), option.bits),)}
        if option.method == "uaq":
            sizes |= {"scale": (rows,), "zero_point": (rows,)}
        else:
            sizes |= {"codebook": (rows, option.levels)}
        for name, size in sizes.items():
            tensor = tensors.get(name)
            if tensor is None or tuple(tensor.shape) != size or tensor.dtype not in STORED_DTYPES[name]:
                found = "is missing" if tensor is None else f"is {tensor.dtype} {tuple(tensor.shape)}"
                raise QsdError(
                    f"tensor '{name}' of a {option} weight of shape {tuple(shape)} {found}, not "
                    f"{STORED_DTYPES[name][0]} {size}: the file is damaged or of another option table, "
                    "build it again"
                )
        parameters = {name: tensors[name] for name in sizes if name != "codes"}
        return cls(option, tuple(shape), tensors["codes"], parameters)


def affine_codebook(scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """The 2^bits values ``(code - zero_point) * scale`` of each channel, float32 [O, 2^bits]."""
    codes = torch.arange(1 << bits, dtype=torch.float32, device=scale.device)
    return (codes - zero_point.float()[:, None]) * scale.float()[:, None]


def lookup(codebook: Tensor, codes: Tensor) -> Tensor:
    """Replaces codes by their values.

    Args:
        codebook: Any dtype, [O or 1, 2^bits].
        codes: uint8, [O, ...].

    Returns:
        Tensor of the codebook's dtype and the codes' shape.
    """
    rows = codes.reshape(codes.shape[0], -1)
    books = codebook.expand(len(rows), -1)
    values = torch.empty(rows.shape, dtype=codebook.dtype, device=codes.device)
    together = len(rows) if codes.is_cuda else max(1, CACHED_WEIGHTS // rows.shape[1])
    for start in range(0, len(rows), together):
        part = slice(start, start + together)
        torch.gather(books[part], 1, rows[part].long(), out=values[part])
    return values.view(codes.shape)


def relative_error(weight: Tensor, quantized: QuantizedWeight) -> float:
    """Dimensionless error ||W - Wq|| / ||W|| (Euclidean norms), Wq in the dtype of W; 0/0 counts as 0."""
    restored = quantized.dequantize(weight.dtype).to(weight.device)
    error = norm = torch.zeros((), dtype=torch.float64, device=weight.device)
    together = weight.numel() if weight.is_cuda else CACHED_WEIGHTS
    parts = zip(weight.detach().flatten().split(together), restored.flatten().split(together), strict=True)
    for part, restored_part in parts:
        exact = part.double()
        difference = exact - restored_part
        error = error + difference.dot(difference)
        norm = norm + exact.dot(exact)
    return (error / norm).sqrt().item() if norm > 0 else error.sqrt().item()
