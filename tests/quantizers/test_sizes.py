"""Exact bytes of any option of any shape, against the files that hold the tensors."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from qsd.quantizers import Option
from qsd.quantizers.quantizing import quantize

_GROUPS = st.sampled_from(["", "g8", "g16", "g32", "g64"])
_SCALES = st.sampled_from(["", ":f8", ":s8"])


def _spelled(name: str, low: int, high: int, flags: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bits = st.integers(low, high).map(lambda number: f"-{number}") if high else st.just("")
    return st.tuples(st.just(name), bits, _GROUPS, flags).map("".join)


_PLAIN = st.one_of(
    _spelled("uaq", 2, 8, st.tuples(st.sampled_from(["", ":sym"]), _SCALES).map("".join)),
    _spelled("kmeans_c", 2, 8, st.just("")),
    _spelled("lloyd", 2, 6, _SCALES),
    _spelled("nf4", 0, 0, _SCALES),
    _spelled("fp4", 0, 0, _SCALES),
    st.sampled_from(["uaq-3:paper", "kmeans_a-3", "kmeans_a-5:paper", "int8", "fp8_e4m3", "fp8_e4m3:row"]),
    st.sampled_from(["q8_0", "q5_0", "q4_1", "q4_0", "iq4_nl", "q6_k", "iq3_s", "w4a8"]),
)
_TEXTS = st.one_of(
    st.just("keep"),
    st.tuples(st.sampled_from(["", "hadamard+"]), _PLAIN, st.sampled_from(["", "+r1", "+r3"])).map("".join),
)
_LINEAR = st.tuples(st.integers(1, 9), st.sampled_from([1, 7, 16, 36, 64, 96, 256, 320]))
_CONVOLUTIONS = st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 8, 32]), st.just(3), st.integers(1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(text=_TEXTS, shape=st.one_of(_LINEAR, _CONVOLUTIONS), seed=st.integers(0, 99))
def test_sizes_are_those_of_the_file(
    text: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    option = Option.parse(text)
    assert Option.parse(str(option)) == option
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found = quantize(weight, [option])
    assert (option in found) == option.accepts(shape)
    if option not in found:
        return
    form = found[option]
    restored = form.dequantize(dtype)
    assert restored.shape == weight.shape and torch.isfinite(restored).all()
    file = tmp_path / "weight.safetensors"
    save_file(form.tensors(), file)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size - header == option.num_bytes(shape) == form.num_bytes
