"""Every scheme: exact bytes, what it takes and refuses, degenerate weights, amplitude, devices alike."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from qsd.quantizers import Option, QuantizedWeight, parse_options, quantize, relative_error
from qsd.quantizers.rotation import rotate
from qsd.quantizers.schemes import w4a8
from qsd.quantizers.schemes.shared_codebook import fit_scales

OPTIONS = parse_options(
    [
        "uaq-3",
        "uaq-4g32",
        "uaq-4g32:s8",
        "uaq-4g16:f8",
        "uaq-4:s8",
        "uaq-3g32:sym",
        "uaq-4:sym:s8",
        "uaq-4g16:sym:f8",
        "int8",
        "kmeans_c-3",
        "kmeans_c-3g32",
        "kmeans_a-4",
        "lloyd-2g16:s8",
        "lloyd-3",
        "lloyd-4:s8",
        "lloyd-4g32:s8",
        "lloyd-4g32:f8",
        "lloyd-5g16",
        "nf4g32",
        "nf4:s8",
        "fp4g16:f8",
        "fp8_e4m3",
        "fp8_e4m3:row",
        "keep",
        "hadamard+uaq-4",
        "hadamard+lloyd-3g32:s8",
        "uaq-3+r4",
        "hadamard+uaq-3g32+r2",
    ]
)
GGUF = parse_options(
    [
        "q8_0",
        "q6_k",
        "q5_k",
        "q5_0",
        "q4_k",
        "q4_1",
        "q4_0",
        "iq4_xs",
        "iq4_nl",
        "q3_k",
        "iq3_s",
        "q2_k",
    ]
)
needs_gguf = pytest.mark.skipif(
    not (importlib.util.find_spec("libgguf") and importlib.util.find_spec("gguf")),
    reason="needs the gguf extra",
)


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def expected_bits(option: Option, fan_in: int, rows: int) -> float:
    """Bits per weight by hand."""
    text = str(option)
    per_scale = {"": 16, "s8": 8, "f8": 8}
    known = {
        "uaq-3": 3 + 32 / fan_in,
        "uaq-4g32": 4 + (16 + 4) / 32,
        "uaq-4g32:s8": 4 + (8 + 4) / 32 + 16 / fan_in,
        "uaq-4g16:f8": 4 + (8 + 4) / 16 + 32 / fan_in / rows,
        "int8": 8 + 16 / fan_in,
        "lloyd-4g32:s8": 4 + per_scale["s8"] / 32 + 16 / fan_in + 16 * 16 / fan_in / rows,
        "lloyd-3": 3 + per_scale[""] / fan_in + 8 * 16 / fan_in / rows,
        "kmeans_c-3g32": 3 + 8 * 16 / 32,
        "nf4g32": 4 + 16 / 32,
        "keep": 16,
        "uaq-3+r4": 3 + 32 / fan_in + 4 * 16 * (fan_in + rows) / fan_in / rows,
        "fp8_e4m3:row": 8 + 32 / fan_in,
    }
    return known.get(text, np.nan)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_bytes_and_restoring(option: Option) -> None:
    shape = (24, 64)
    form = quantize(weight(*shape), [option])[option]
    assert form.num_bytes == option.num_bytes(shape) == sum(t.nbytes for t in form.tensors().values())
    expected = expected_bits(option, 64, 24)
    assert np.isnan(expected) or 8 * form.num_bytes / weight(*shape).numel() == pytest.approx(expected)
    again = QuantizedWeight.from_tensors(option, shape, form.tensors())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(again.dequantize(dtype), form.dequantize(dtype))
        assert form.dequantize(dtype).dtype == dtype and form.dequantize(dtype).shape == shape
    empty = QuantizedWeight.empty(option, shape)
    assert {k: t.shape for k, t in empty.tensors().items()} == {k: t.shape for k, t in form.tensors().items()}


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_convolutions_of_every_dimension(option: Option) -> None:
    for shape in [(6, 8, 16), (6, 16, 4, 1), (6, 8, 2, 2, 2)]:
        some = weight(*shape)
        form = quantize(some, [option])[option]
        assert form.dequantize().shape == shape
        assert relative_error(some, form) < 0.5


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_numba_and_torch_agree(option: Option) -> None:
    some = weight(16, 64)
    errors = [
        relative_error(some, quantize(some, [option], method_backend=backend)[option])
        for backend in ("numba", "torch")
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05, abs=1e-6)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_no_amplitude_is_lost(option: Option) -> None:
    some = weight(32, 128)
    restored = quantize(some, [option])[option].dequantize()
    lost = 1 - float((restored * some).sum() / some.square().sum())
    assert abs(lost) < 5e-3


def test_the_papers_forms_lose_amplitude_and_have_the_smaller_error() -> None:
    some = weight(32, 256)
    for name in ("uaq-3", "kmeans_c-3", "kmeans_a-3"):
        plain, paper = parse_options([name, f"{name}:paper"])
        forms = quantize(some, [plain, paper])
        assert forms[plain].num_bytes == forms[paper].num_bytes
        kept = float((forms[paper].dequantize() * some).sum() / some.square().sum())
        assert kept < 0.985
        assert relative_error(some, forms[paper]) < relative_error(some, forms[plain])


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_degenerate_weights(option: Option) -> None:
    zero = torch.zeros(24, 64)
    assert torch.equal(quantize(zero, [option])[option].dequantize(), zero)
    some = weight(24, 64)
    some[3] = 0
    some[4, :32] = 0
    some[5] = 0.01
    some[6, 7] = 3.0
    restored = quantize(some, [option])[option].dequantize()
    assert torch.isfinite(restored).all()
    for factor in (1e-30, 1e6, 1e30):
        scaled = quantize(some * factor, [option])[option]
        assert torch.isfinite(scaled.dequantize()).all()


@pytest.mark.parametrize(
    ("text", "shape", "taken"),
    [
        ("uaq-4g64", (8, 64), False),
        ("uaq-4g64", (8, 128), True),
        ("uaq-4g64", (8, 100), False),
        ("uaq-4g32", (8, 8, 3, 4), True),
        ("hadamard+uaq-4", (8, 36), False),
        ("hadamard+uaq-4", (8, 48), True),
        ("uaq-4+r8", (8, 64), False),
        ("uaq-4+r8", (64, 9), True),
        ("q4_k", (8, 1152), False),
        ("q4_k", (8, 512), True),
        ("q4_0", (8, 1152), True),
        ("q4_0", (8, 32, 1, 1), False),
        ("lloyd-4", (8, 7), True),
    ],
)
def test_which_shapes_an_option_takes(text: str, shape: tuple[int, ...], taken: bool) -> None:
    option = Option.parse(text)
    assert option.accepts(shape) == taken
    if not option.missing:
        assert (option in quantize(weight(*shape), [option])) == taken


@needs_gguf
@pytest.mark.parametrize("option", GGUF, ids=str)
def test_gguf_reads_the_very_values(option: Option) -> None:
    import gguf

    form = quantize(weight(4, 512), [option])[option]
    kind = gguf.GGMLQuantizationType[str(option).upper()]
    theirs = gguf.quants.dequantize(form.tensors()["blocks"].numpy(), kind)
    np.testing.assert_array_equal(form.dequantize().numpy(), theirs)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    assert form.num_bytes == 4 * 512 // weights * size


def test_a_rotation_is_its_own_inverse() -> None:
    some = weight(5, 96)
    assert torch.allclose(rotate(rotate(some)), some, atol=1e-7)
    assert torch.allclose(rotate(some).norm(dim=1), some.norm(dim=1))
    assert not torch.allclose(rotate(some), some)


def test_a_low_rank_part_is_the_best_of_the_residual() -> None:
    some, option = weight(20, 40), Option.parse("uaq-2+r3")
    inner = quantize(some, [Option.parse("uaq-2")])[Option.parse("uaq-2")].dequantize()
    left = torch.linalg.svdvals(some.double() - inner.double())[3:].norm()
    form = quantize(some, [option])[option]
    assert float((some - form.dequantize()).norm()) == pytest.approx(float(left), rel=1e-3)


def test_scales_are_the_best_of_those_tried() -> None:
    values, book = weight(6, 16) * 50, torch.tensor([[-0.8, -0.2, 0.3, 1.0]])
    anchors, factors = values.abs().amax(dim=1), (1.0, 0.8, -1.0)

    def error(scale: Tensor) -> Tensor:
        nearest = (values[:, :, None] - scale[:, None, None] * book).abs().amin(dim=2)
        return nearest.square().sum(dim=1)

    for compiled in (True, False):
        found = error(fit_scales(values, anchors, book, factors, compiled=compiled))
        for factor in factors:
            assert (found <= error(anchors * factor) * 1.02 + 1e-9).all()


def test_larger_tables_share_no_state() -> None:
    """An option's tensors do not depend on what else is asked for."""
    some = weight(16, 64)
    together = quantize(some, OPTIONS)
    for option, again in itertools.islice(((o, quantize(some, [o])[o]) for o in OPTIONS), 0, None, 3):
        for name, tensor in again.tensors().items():
            assert torch.equal(together[option].tensors()[name].float(), tensor.float())


def test_w4a8_decodes_as_its_definition_says() -> None:
    """Against the loop over weights, and a rotation by the Kronecker product written out."""
    option = Option.parse("w4a8")
    exact = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    weight = quantize(exact, [option])[option]
    stored, book = weight.stored, w4a8.codebook()
    seed = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)
    matrix = torch.kron(torch.kron(seed, seed), seed) / 8
    rotated = torch.empty(3, 64, dtype=torch.float64)
    for row in range(3):
        for column in range(64):
            byte = int(stored["nibbles"][row, column // 2]) & 0xFF
            code = byte >> 4 if column % 2 else byte & 15
            product = float(book[code]) * float(stored["s_rel"][row, column // 16])
            rotated[row, column] = max(-127, min(127, round(product))) * float(stored["s_channel"][row])
    torch.testing.assert_close(weight.dequantize().double(), rotated @ matrix, atol=1e-6, rtol=0)
    assert relative_error(exact, weight) < 0.09
    assert 8 * weight.num_bytes == 3 * 64 * (4 + 8 / 16) + 3 * 32
    zeros = quantize(torch.cat([torch.zeros(2, 64), exact[:1] * 1e30]), [option])[option]
    assert zeros.dequantize()[:2].abs().max() < 1e12 and zeros.dequantize().isfinite().all()
    large = zeros.dequantize(torch.float16)
    assert large.isfinite().all() and large.abs().max() == torch.finfo(torch.float16).max
    assert not option.accepts((3, 24)) and not option.accepts((3, 64, 1, 1))
    assert [w4a8.rotation_block(inputs) for inputs in (64, 128, 1152, 768, 48)] == [64, 64, 64, 256, 16]
