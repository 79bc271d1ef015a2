"""Codes and tables: encoding values as the nearest entry of a codebook, and looking entries up."""

import torch
from torch import Tensor

CACHED_WEIGHTS = 1 << 15
"""The 64-bit indices of as many weights stay in a core's own cache."""


def thresholds_of(books: Tensor) -> Tensor:
    """Borders between neighbouring entries of ascending codebooks [T, levels], [T, levels - 1]."""
    return books[:, 1:] / 2 + books[:, :-1] / 2  # the sum alone could overflow


def encode(values: Tensor, books: Tensor, *, compiled: bool) -> Tensor:
    """Code of the nearest entry of each value.

    Args:
        values: float32 [R, n].
        books: float32 [R or 1, levels], ascending.
        compiled: whether to use the numba kernel, on the CPU.

    Returns:
        uint8 [R, n].
    """
    thresholds = thresholds_of(books).contiguous()
    if compiled:
        from qsd.quantizers import kernels

        codes = torch.empty(values.shape, dtype=torch.uint8)
        kernels.encode_rows(values.contiguous().numpy(), thresholds.numpy(), codes.numpy())
        return codes
    flat = values if len(books) > 1 or len(values) == 1 else values.reshape(1, -1)
    return torch.searchsorted(thresholds, flat.contiguous()).to(torch.uint8).view(values.shape)


def lookup(books: Tensor, codes: Tensor) -> Tensor:
    """Replaces codes by their values.

    Args:
        books: any dtype, [R or 1, levels].
        codes: uint8, [R, ...].

    Returns:
        Tensor of the codebook's dtype and the codes' shape.
    """
    rows = codes.reshape(codes.shape[0], -1)
    expanded = books.expand(len(rows), -1)
    values = torch.empty(rows.shape, dtype=books.dtype, device=codes.device)
    together = len(rows) if codes.is_cuda else max(1, CACHED_WEIGHTS // rows.shape[1])
    for start in range(0, len(rows), together):
        part = slice(start, start + together)
        torch.gather(expanded[part], 1, rows[part].long(), out=values[part])
    return values.view(codes.shape)


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in another type; those beyond its range become its largest."""
    limit = torch.finfo(dtype).max
    if limit <= torch.finfo(values.dtype).max:  # else nothing is beyond
        values = values.clamp(-limit, limit)
    return values.to(dtype)
