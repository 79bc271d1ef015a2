"""Decoding: whatever the processor's registers, the same values as indexing a table with the codes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsd.quantizers import decoding, decoding_kernels, pack
from qsd.quantizers.decoding import decode


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
