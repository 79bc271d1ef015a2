"""Decoding: whatever the processor's registers, the same values as indexing a table with the codes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsd.quantizers import Option, decoding, decoding_kernels, pack, quantize
from qsd.quantizers.decoding import decode, decode_scaled, rotate_blocks
from qsd.quantizers.rotation import rotate


@pytest.fixture(params=[True, False], ids=["registers", "portable"])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to decode, where the processor has both."""
    monkeypatch.setattr(decoding_kernels, "WIDE", request.param and decoding_kernels.WIDE)


def check(bits: int, rows: int, run: int, dtype: torch.dtype, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, run), dtype=torch.uint8, generator=generator)
    table = torch.randn(rows, 1 << bits, generator=generator).to(dtype)
    out = torch.full((rows * run,), float("nan"), dtype=dtype)
    assert decode(pack(codes, bits), table, out) is out
    assert torch.equal(out.view(rows, run), table.gather(1, codes.long()))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_are_those_of_the_table(bits: int, dtype: torch.dtype) -> None:
    for rows, run in ((1, 1), (1, 13), (3, 7), (4, 64), (5, 333), (700, 8)):
        check(bits, rows, run, dtype)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(1, 9), st.integers(1, 200), st.integers(0, 99))
def test_ragged_shapes(bits: int, rows: int, run: int, seed: int) -> None:
    check(bits, rows, run, torch.bfloat16, seed)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_several_threads_share_a_large_weight(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SHARED_WEIGHTS", 100)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        check(bits, 11, 331, torch.float32)
    finally:
        torch.set_num_threads(before)


def check_scaled(bits: int, rows: int, run: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 1 << bits, (rows, run), dtype=torch.uint8, generator=generator)
    book = torch.randn(1 << bits, generator=generator)
    scales = torch.randn(rows, generator=generator)
    out = torch.full((rows * run,), float("nan"), dtype=dtype)
    assert decode_scaled(pack(codes, bits), book, scales, out)
    assert torch.equal(out.view(rows, run), (book[codes.long()] * scales[:, None]).to(dtype))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("bits", range(2, 7))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_codebooks(bits: int, dtype: torch.dtype) -> None:
    for rows, run in ((1, 13), (3, 7), (64, 32), (96, 16), (8, 512), (5, 333)):
        check_scaled(bits, rows, run, dtype)


def test_what_has_no_fast_way_is_left_alone() -> None:
    packed, book = pack(torch.zeros(1, 8, dtype=torch.uint8), 2), torch.full((4,), 1e30)
    assert not decode_scaled(packed, book, torch.ones(1), torch.empty(8, dtype=torch.float16))
    assert not decode_scaled(packed, book, torch.full((1,), 1e20), torch.empty(8)), "products are infinite"
    assert not decode_scaled(packed, book, torch.full((1,), float("nan")), torch.empty(8))


@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_rotation_is_that_of_the_matrix(block: int) -> None:
    for blocks in (1, 15, 16, 50):
        values = torch.randn(blocks, block, generator=torch.Generator().manual_seed(blocks))
        expected = rotate(values)
        rotate_blocks(values, block)
        torch.testing.assert_close(values, expected, atol=2e-6, rtol=0)


def test_rotation_is_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(67, 64)
    alone = values.clone()
    rotate_blocks(alone, 64)
    monkeypatch.setattr(decoding, "SHARED_WEIGHTS", 100)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        rotate_blocks(values, 64)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(values, alone)


@pytest.mark.parametrize(
    "text", ["lloyd-4g32:f8", "nf4g32", "lloyd-3", "hadamard+lloyd-4g32:f8", "hadamard+uaq-4"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_the_same_by_every_way(text: str, dtype: torch.dtype) -> None:
    option = Option.parse(text)
    weight = quantize(torch.randn(24, 96, generator=torch.Generator().manual_seed(0)), [option])[option]
    slow = option.dequantize(weight.stored, weight.shape, dtype)
    step = torch.finfo(dtype).eps if text.startswith("hadamard") else 0.0
    for out in (None, torch.empty(24 * 96, dtype=dtype)):
        torch.testing.assert_close(weight.dequantize(dtype, out), slow, atol=2e-6 * bool(step), rtol=step)
