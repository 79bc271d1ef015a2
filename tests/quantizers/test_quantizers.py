"""Every method on every kind of weight: optimality, sizes, degenerate inputs, errors."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qsd.quantizers import (
    PAPER_OPTIONS,
    Option,
    QuantizedWeight,
    packed_bytes,
    quantize,
    quantize_all,
    relative_error,
)
from qsd.quantizers.kmeans import kmeans_codebooks
from qsd.support.errors import QsdError

BACKENDS = ("numba", "torch")
METHODS = ("uaq", "kmeans_c", "kmeans_a")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random_weight(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02).to(dtype)


def squared_error(rows: Tensor, book: Tensor) -> Tensor:
    """Of each row [R, n] with the nearest entry of its codebook [R, levels]."""
    return (rows.double()[:, :, None] - book.double()[:, None, :]).square().amin(dim=2).sum(dim=1)


def least_error(values: np.ndarray, clusters: int) -> float:
    """By trying every partition of the sorted values into contiguous ranges."""
    values, count = np.sort(values.astype(np.float64)), len(values)
    partitions = combinations(range(1, count), min(clusters, count) - 1)
    return min(sum(part.var() * len(part) for part in np.split(values, cuts)) for cuts in partitions)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.floats(-10, 10, width=32), st.sampled_from([0.0, 1.5, -2.0])), min_size=1, max_size=9
    ),
    clusters=st.integers(2, 5),
    offset=st.sampled_from([0.0, 1000.0]),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_kmeans_is_optimal(backend: str, values: list[float], clusters: int, offset: float) -> None:
    row = torch.tensor([values]) + offset
    book = kmeans_codebooks(row, [clusters, 7], compiled=backend == "numba")[clusters]
    assert torch.all(book.diff(dim=1) >= 0)
    best = least_error(row[0].numpy(), clusters)
    assert squared_error(row, book).item() <= best * (1 + 1e-9) + 1e-9


def least_error_table(values: np.ndarray, clusters: int) -> float:
    """The same by the plain quadratic dynamic program."""
    values, count = np.sort(values.astype(np.float64)), len(values)
    table = np.array([0.0] + [np.inf] * count)
    error = np.array(
        [[np.var(values[j:i]) * (i - j) for i in range(j + 1, count + 1)] + [0.0] * j for j in range(count)]
    )
    for _ in range(clusters):
        ends = [min(table[j] + error[j, i - j - 1] for j in range(i)) for i in range(1, count + 1)]
        table = np.array([0.0, *ends])
    return float(table[-1])


@pytest.mark.parametrize("kind", ["normal", "heavy", "rounded"])
@pytest.mark.parametrize("count", [14, 15, 16, 17, 18, 31, 64])
def test_kmeans_is_optimal_at_every_size(kind: str, count: int) -> None:
    draw = np.random.default_rng(count)
    values = draw.standard_t(1.5, count) if kind == "heavy" else draw.standard_normal(count)
    row = torch.tensor(values.round(1) if kind == "rounded" else values, dtype=torch.float32)[None]
    sizes = [4, 8, 16]
    together = kmeans_codebooks(row, sizes, compiled=True)
    for size in sizes:
        best = least_error_table(row[0].numpy(), size)
        alone = kmeans_codebooks(row, [size], compiled=True)[size]
        for book in (together[size], alone):
            assert squared_error(row, book).item() <= best * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("kind", ["normal", "heavy", "two humps", "float16"])
def test_coarse_start_is_within_one_percent(kind: str) -> None:
    draw = np.random.default_rng(3)
    rows = {
        "normal": draw.standard_normal((6, 3000)),
        "heavy": draw.standard_t(2.5, (6, 3000)),
        "two humps": draw.standard_normal((6, 3000)) + 20 * draw.integers(0, 2, (6, 3000)),
        "float16": draw.standard_normal((6, 3000)).astype(np.float16),
    }[kind]
    weight = torch.from_numpy(rows.astype(np.float32))
    exact = kmeans_codebooks(weight, [8, 16], compiled=True)
    coarse = kmeans_codebooks(weight, [8, 16], compiled=False)
    for size, book in exact.items():
        best = squared_error(weight, book)
        assert torch.all(squared_error(weight, coarse[size]) <= 1.01 * best)
        assert torch.all(squared_error(weight, coarse[size]) >= best * (1 - 1e-9))


@pytest.mark.parametrize("degrees", [2.5, 1000])
def test_long_rows_are_nearly_optimal(degrees: float) -> None:
    """More distinct values than the dynamic program takes, against the program on a finer condensation."""
    values = np.random.default_rng(1).standard_t(degrees, 200_000).astype(np.float32)
    halves = torch.from_numpy(values.astype(np.float16).astype(np.float32))[None]
    exact = kmeans_codebooks(halves, [8, 16], compiled=True)
    nearly = kmeans_codebooks(torch.from_numpy(values)[None], [8, 16], compiled=True)
    for size in (8, 16):
        best = squared_error(halves, exact[size]).item()
        assert squared_error(halves, nearly[size]).item() <= best * (1 + 1e-3)


@pytest.mark.parametrize("shape", [(12, 300), (1, 70_000)])
def test_never_worse_than_scikit_learn(shape: tuple[int, int]) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    weight = random_weight(*shape)
    for size, books in kmeans_codebooks(weight, [8, 16], compiled=True).items():
        for row, book in zip(weight, books, strict=True):
            fitted = cluster.KMeans(size, random_state=0).fit(row.numpy().reshape(-1, 1))
            theirs = squared_error(row[None], torch.from_numpy(fitted.cluster_centers_.T))
            assert squared_error(row[None], book[None]).item() <= theirs.item() * (1 + 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_uaq_follows_its_definition(backend: str, bits: int) -> None:
    weight = random_weight(5, 300) + torch.tensor([0.0, 0.01, -0.05, 0.5, 0.0])[:, None]
    weight[4, 7] = 1.0
    option = Option.parse(f"uaq-{bits}:paper")
    restored = quantize(weight, [option], method_backend=backend)[option].dequantize()
    for row, found in zip(weight.double().numpy(), restored.double().numpy(), strict=True):
        means = []
        for shrink in np.arange(10) / 10:
            low, high = row.min() * (1 - shrink), row.max() * (1 - shrink)
            scale = float(np.float16((high - low) / (2**bits - 1)))
            zero = np.round(-low / scale)
            codes = np.clip(np.round(row / scale) + zero, 0, 2**bits - 1)
            means.append(np.mean(np.abs(row - (codes - zero) * scale) ** 2.4))
        assert np.mean(np.abs(row - found) ** 2.4) <= min(means) * (1 + 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 33), (5, 3, 4), (6, 2, 3, 3), (3, 2, 2, 3, 2), (1, 1), (4, 1)])
def test_shapes_types_and_sizes(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    weight = random_weight(*shape, dtype=dtype)
    quantized = quantize(weight, PAPER_OPTIONS, method_backend=backend)
    assert list(quantized) == list(PAPER_OPTIONS)
    for option, form in quantized.items():
        bits, method = int(option.traits.bits), str(option).partition("-")[0]
        overhead = {"uaq": 4 * shape[0], "kmeans_c": 2 * 2**bits * shape[0], "kmeans_a": 2 * 2**bits}
        assert form.num_bytes == packed_bytes(weight.numel(), bits) + overhead[method]
        assert form.num_bytes == option.num_bytes(shape)
        restored = form.dequantize(dtype)
        assert restored.shape == weight.shape and restored.dtype == dtype
        assert relative_error(weight, form) < 0.3
        again = QuantizedWeight.from_tensors(option, shape, form.tensors())
        assert torch.equal(again.dequantize(dtype), restored)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_codes_are_nearest_and_deterministic(method: str, backend: str) -> None:
    weight, option = random_weight(9, 100), Option.parse(f"{method}-3:paper")
    form = quantize(weight, [option], method_backend=backend)[option]
    again = quantize(weight, [option, Option.parse(f"{method}-5:paper")], method_backend=backend)[option]
    assert all(torch.equal(form.tensors()[key], again.tensors()[key]) for key in form.tensors())
    restored = form.dequantize()
    for row, found in zip(weight, restored, strict=True):
        values = restored.unique() if method == "kmeans_a" else found.unique()
        assert torch.allclose((row - found).abs(), (row[:, None] - values).abs().amin(dim=1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("option", PAPER_OPTIONS, ids=str)
def test_degenerate_channels(option: Option, backend: str) -> None:
    weight = torch.zeros(5, 12)
    weight[1] = 0.3
    weight[2, ::2] = -0.7
    weight[3] = 12.5
    weight[4] = torch.tensor([0.25, 0.5, 0.75] * 4)
    form = quantize(weight, [option], method_backend=backend)[option]
    restored = form.dequantize()
    assert torch.isfinite(restored).all()
    if str(option).startswith("kmeans_c"):
        assert torch.allclose(restored, weight, rtol=1e-3)
    assert torch.equal(restored[0], weight[0])
    assert torch.allclose(restored[3], weight[3], rtol=1e-3)
    zero = quantize(torch.zeros(3, 4), [option], method_backend=backend)[option]
    assert relative_error(torch.zeros(3, 4), zero) == 0


@pytest.mark.parametrize("factor", [1e-30, 1e-7, 1e6, 1e30])
@pytest.mark.parametrize("option", PAPER_OPTIONS, ids=str)
def test_values_that_float16_cannot_hold(option: Option, factor: float) -> None:
    weight = random_weight(6, 200)
    usual = relative_error(weight, quantize(weight, [option])[option])
    scaled = weight * factor
    form = quantize(scaled, [option])[option]
    assert relative_error(scaled, form) == pytest.approx(usual, rel=0.05)
    assert torch.isfinite(form.dequantize(torch.float16)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_of_a_type(dtype: torch.dtype) -> None:
    limit = torch.finfo(dtype).max
    weight = torch.tensor([[limit, -limit, 0.0, limit / 2], [1.0, 2.0, 3.0, 4.0]], dtype=dtype)
    for form in quantize(weight, PAPER_OPTIONS).values():
        assert torch.isfinite(form.dequantize(dtype)).all()
        assert relative_error(weight, form) < 0.3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(bad: float) -> None:
    weight = random_weight(3, 3)
    weight[1, 2] = bad
    with pytest.raises(QsdError, match=r"layer 'blocks.0.attn1.to_q' has NaN or infinite"):
        quantize(weight, PAPER_OPTIONS, name="blocks.0.attn1.to_q")


def test_other_refusals() -> None:
    with pytest.raises(QsdError, match="float64"):
        quantize(torch.ones(2, 2, dtype=torch.float64), PAPER_OPTIONS)
    for shape in [(4,), (0, 3)]:
        with pytest.raises(QsdError, match="non-empty Linear and convolution"):
            quantize(torch.ones(shape), PAPER_OPTIONS)
    with pytest.raises(QsdError, match="use one of numba, torch"):
        quantize(torch.ones(2, 2), PAPER_OPTIONS, method_backend="cuda")


def test_damaged_tensors() -> None:
    option = Option.parse("kmeans_c-3")
    tensors = quantize(random_weight(4, 8), [option])[option].tensors()
    with pytest.raises(QsdError, match=r"'codebook' .* is missing"):
        QuantizedWeight.from_tensors(option, (4, 8), {"codes": tensors["codes"]})
    with pytest.raises(QsdError, match=r"'codes' .* not torch.uint8"):
        QuantizedWeight.from_tensors(option, (4, 16), tensors)
    with pytest.raises(QsdError, match="'codebook'"):
        QuantizedWeight.from_tensors(option, (4, 8), tensors | {"codebook": tensors["codebook"].float()})


@pytest.mark.parametrize("threads", [1, 3])
def test_many_weights_in_order(threads: int) -> None:
    weights = [(f"layer{i}", random_weight(3 + i, 20, seed=i)) for i in range(7)]
    options = PAPER_OPTIONS[:3]
    found = list(quantize_all(iter(weights), options, threads=threads))
    assert [name for name, _ in found] == [name for name, _ in weights]
    for (_, weight), (_, forms) in zip(weights, found, strict=True):
        for option, form in quantize(weight, options).items():
            assert torch.equal(form.dequantize(), forms[option].dequantize())


def test_gradients_and_input_are_left_alone() -> None:
    weight = random_weight(4, 10).requires_grad_()
    before = weight.detach().clone()
    form = quantize(weight, PAPER_OPTIONS)[PAPER_OPTIONS[0]]
    assert torch.equal(weight, before) and not form.dequantize().requires_grad
