"""Packed codes: round trips, exact sizes, and the documented bit order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsd.quantizers import pack, packed_bytes, unpack


@given(bits=st.integers(1, 8), count=st.integers(0, 200), seed=st.integers(0, 999))
def test_round_trip(bits: int, count: int, seed: int) -> None:
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 1 << bits, count, dtype=np.uint8))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_bytes(count, bits),)
    assert torch.equal(unpack(packed, bits, count), codes)


@given(bits=st.integers(1, 8), count=st.integers(0, 10_000))
def test_size_is_exact(bits: int, count: int) -> None:
    size = packed_bytes(count, bits)
    assert size >= count * bits / 8
    assert size < (count + 8) * bits / 8
    if count % 8 == 0:
        assert size * 8 == count * bits


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_order_is_little_endian_within_a_group(bits: int) -> None:
    generator = np.random.default_rng(bits)
    groups = 5
    codes = generator.integers(0, 1 << bits, (8, groups), dtype=np.uint8)
    packed = pack(torch.from_numpy(codes), bits).numpy()
    per_group = 8 // np.gcd(8, bits)
    planes = codes.reshape(per_group, -1)
    stream = packed.reshape(-1, planes.shape[1])
    for group in range(planes.shape[1]):
        number = sum(int(code) << (k * bits) for k, code in enumerate(planes[:, group]))
        assert number == int.from_bytes(stream[:, group].tobytes(), "little")


def test_shape_is_row_major() -> None:
    codes = torch.arange(15, dtype=torch.uint8).reshape(3, 5)
    assert torch.equal(pack(codes, 4), pack(codes.reshape(-1), 4))
    assert torch.equal(pack(codes.T, 4), pack(codes.T.contiguous(), 4))


def test_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="are 3 bytes, not 4"):
        unpack(torch.zeros(4, dtype=torch.uint8), 3, 8)
