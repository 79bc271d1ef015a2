"""The canonical packed layout of integer codes, in memory and on disk.

Codes of ``bits`` bits are packed in groups of P codes that fill B whole bytes exactly, with P and B as
small as possible (3 bits: 8 codes in 3 bytes; 4 bits: 2 codes in 1 byte; 6 bits: 4 codes in 3 bytes).
Within a group the bit order is little-endian: code k owns bits ``k * bits`` to ``(k + 1) * bits - 1`` of the
group, and bit t of the group is bit ``t % 8`` of its byte ``t // 8``.

The layout is planar. With m = ceil(n / P) groups for n codes, group g holds the codes
``g, g + m, g + 2m, ...`` (zero beyond the last code), and its bytes are bytes ``g, g + m, g + 2m, ...`` of
the packed tensor. So packing and unpacking are a few operations on contiguous uint8 vectors, fast on
processors with wide registers and on GPUs alike.
"""

import math

import torch
from torch import Tensor


def _group(bits: int) -> tuple[int, int]:
    """Codes and bytes of one group."""
    common = math.gcd(8, bits)
    return 8 // common, bits // common


def packed_bytes(count: int, bits: int) -> int:
    """Exact number of bytes of ``count`` packed codes; ``count * bits / 8`` if 8 divides ``count``."""
    codes, size = _group(bits)
    return math.ceil(count / codes) * size


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs integer codes.

    Args:
        codes: uint8 tensor of any shape, every value below 2^bits; packed in row-major order.
        bits: Bits per code, 1 to 8.

    Returns:
        uint8 tensor [packed_bytes(codes.numel(), bits)] on the same device.
    """
    per_group, size = _group(bits)
    flat = codes.reshape(-1)
    groups = math.ceil(flat.numel() / per_group)
    planes = torch.nn.functional.pad(flat, (0, groups * per_group - flat.numel())).view(per_group, groups)
    packed = torch.zeros(size, groups, dtype=torch.uint8, device=codes.device)
    for k in range(per_group):
        byte, shift = divmod(k * bits, 8)
        packed[byte] |= planes[k] << shift
        if shift + bits > 8:
            packed[byte + 1] |= planes[k] >> (8 - shift)
    return packed.view(-1)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Restores packed codes.

    Args:
        packed: uint8 tensor [packed_bytes(count, bits)] made by :func:`pack`.
        bits: Bits per code.
        count: Number of codes.

    Returns:
        uint8 tensor [count] on the same device.

    Raises:
        ValueError: If the packed tensor has another size.
    """
    if packed.numel() != packed_bytes(count, bits):
        raise ValueError(
            f"{count} codes of {bits} bits are {packed_bytes(count, bits)} bytes, not {packed.numel()}"
        )
    per_group, size = _group(bits)
    planes = packed.view(size, -1)
    codes = torch.empty(per_group, planes.shape[1], dtype=torch.uint8, device=packed.device)
    for k in range(per_group):
        byte, shift = divmod(k * bits, 8)
        value = planes[byte] >> shift
        if shift + bits > 8:
            value |= planes[byte + 1] << (8 - shift)
        torch.bitwise_and(value, (1 << bits) - 1, out=codes[k])
    return codes.view(-1)[:count]
