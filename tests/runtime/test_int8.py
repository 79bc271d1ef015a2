"""Integer layers: the arithmetic that simulation promises."""

import copy
import pickle

import pytest
import torch
from torch import nn

from qsd.quantizers import Option, quantize
from qsd.quantizers.activations import ActivationOption, Ranges, rotate, round_tokens, rounding
from qsd.runtime.int8 import Int8Linear, int_mm, integer_layers, round_rows, row_scales, use_int8
from qsd.support.errors import QsdError


def _values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def test_rows_are_rounded_as_in_simulation() -> None:
    rows = torch.cat([_values(50, 70) * 10.0 ** torch.randint(-3, 3, (50, 1)), torch.full((1, 70), -2.5)])
    codes, step, zero = round_rows(rows)
    assert torch.allclose(step * (codes.float() - zero), round_tokens(rows, 8), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_layer_computes_what_its_rounded_input_and_weight_give(rotated: bool) -> None:
    linear = nn.Linear(96, 40)
    layer = Int8Linear(linear.weight, linear.bias, rotated=rotated)
    weight = layer.scale[:, None] * layer.codes.float()
    values = _values(3, 17, 96)
    wanted = round_tokens(rotate(values) if rotated else values, 8) @ weight.T + linear.bias
    assert torch.allclose(layer(values), wanted, atol=1e-4)
    error = (layer(values) - linear(values)).norm() / linear(values).norm()
    assert error < 0.02


@pytest.mark.parametrize("option", ["uaq-3", "uaq-4", "int8"])
def test_weights_on_a_grid_of_few_bits_lose_nothing(option: str) -> None:
    parsed = Option.parse(option)
    weight = quantize(_values(12, 200) - 0.3, [parsed])[parsed].dequantize()
    scale = row_scales(weight)
    codes = torch.round(weight / scale[:, None])
    assert torch.allclose(codes * scale[:, None], weight, rtol=1e-4, atol=1e-5)


def test_rows_of_other_weights_and_of_zeros_have_a_scale() -> None:
    weight = torch.cat([_values(4, 64), torch.zeros(1, 64)])
    assert torch.allclose(row_scales(weight)[:4], weight[:4].abs().amax(1) / 127)
    assert Int8Linear(weight, None)(_values(2, 64))[:, 4].tolist() == [0.0, 0.0]


def test_both_integer_products_agree() -> None:
    left = torch.randint(-128, 128, (33, 24), dtype=torch.int8)
    layer = Int8Linear(_values(16, 24), None)
    assert torch.equal(layer._product(left), int_mm(left, layer.codes).float())
    assert torch.equal(int_mm(left, layer.codes), left.int() @ layer.codes.int().T)


def test_layers_with_eight_bits_are_replaced_and_tied_ones_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": nn.Conv2d(8, 8, 1)})
    model["d"] = model["a"]
    parse = ActivationOption.parse
    options = {"a": parse("8"), "d": parse("8"), "b": parse("6"), "c": parse("8")}
    assert use_int8(model, options) == ["a", "d"]
    assert model["a"] is model["d"] and isinstance(model["b"], nn.Linear)


@pytest.mark.parametrize("text", ["8", "8h", "8m"])
def test_transforms_are_folded_into_the_weight(text: str) -> None:
    option = ActivationOption.parse(text)
    values = _values(40, 64)
    values[:, 7] *= 30
    linear = nn.Linear(64, 24)
    ranges = Ranges.of(values, linear.weight)
    model = nn.ModuleDict({"a": linear})
    simulated = linear(rounding(option, ranges, "a")(values))
    with integer_layers(model, {"a": option}, {"a": ranges}) as done:
        assert done == ["a"] and isinstance(model["a"], Int8Linear)
        computed = model["a"](values)
        assert computed.shape == simulated.shape
    assert model["a"] is linear
    change = (computed - simulated).norm() / simulated.norm()
    assert change < 0.02  # the weight is rounded to 8 bits as well


def test_a_cast_keeps_scales_and_the_result_its_dtype() -> None:
    layer = Int8Linear(_values(8, 16), _values(8)).to(torch.bfloat16)
    assert layer.scale.dtype == torch.float32
    assert layer(_values(2, 16).bfloat16()).dtype == torch.bfloat16


def test_inputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(QsdError, match="NaN or infinity"):
        Int8Linear(_values(8, 16), None)(torch.full((2, 16), torch.nan))


def test_copies_and_pickles_of_a_layer_that_has_run() -> None:
    layer, values = Int8Linear(_values(16, 24), None), _values(3, 24)
    expected = layer(values)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(values), expected)


def test_a_gradient_is_refused_and_never_lost() -> None:
    layer, values = Int8Linear(_values(16, 24), None), _values(3, 24).requires_grad_(True)
    with pytest.raises(QsdError, match="no gradient"):
        layer(values)
    with torch.no_grad():
        layer(values)


@pytest.mark.parametrize(
    ("path", "text", "said"), [("b", "8", "no layer 'b'"), ("a", "8m", "needs `ranges`")]
)
def test_layers_and_ranges_that_are_missing_are_named(path: str, text: str, said: str) -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8)})
    with pytest.raises(QsdError, match=said):
        use_int8(model, {"a": ActivationOption.parse("8"), path: ActivationOption.parse(text)})
    assert type(model["a"]) is nn.Linear
