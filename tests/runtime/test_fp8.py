"""Packed layers that multiply 8-bit floats: beside the exact product of what their codes stand for."""

import copy
import pickle

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from torch import nn

from qsd.quantizers import Option, quantize
from qsd.runtime import QuantizedLayer, cache_weights
from qsd.runtime.fp8 import Fp8Linear, discard_fp8, round_rows, use_fp8
from qsd.runtime.layers import pack_module, unpack_modules
from qsd.runtime.packed import PackedParts
from qsd.support.errors import QsdError


def _model(option: str = "fp8_e4m3", sizes: tuple[int, int] = (32, 48), bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    linear = nn.Linear(*sizes, bias=bias)
    parsed = Option.parse(option)
    weight = quantize(linear.weight.detach(), [parsed])[parsed]
    pack_module(linear, PackedParts([weight]), torch.float32)
    return nn.Sequential(linear).requires_grad_(False)


@pytest.mark.parametrize("option", ["fp8_e4m3", "fp8_e4m3:row"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_gives_the_exact_product_of_its_rounded_operands(
    option: str, bias: bool, dtype: torch.dtype
) -> None:
    model = _model(option, bias=bias).to(dtype)
    values = (torch.randn(3, 5, 32) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
    codes, step = round_rows(values.reshape(-1, 32))
    stored = model[0].packed[0].stored()
    weight = stored["weight"].double() * stored["scale"].double()[:, None]
    wanted = (codes.double() * step.double()) @ weight.T
    wanted = wanted + model[0].bias.double() if bias else wanted
    assert use_fp8(model).replaced == ["0"]
    got = model(values)
    assert got.dtype == dtype
    largest = wanted.abs().amax(dim=1, keepdim=True)
    assert ((got.reshape(-1, 48).double() - wanted).abs() <= largest * torch.finfo(dtype).eps * 8).all()


def test_zeros_and_infinities() -> None:
    model = _model(bias=False)
    use_fp8(model)
    values = torch.zeros(2, 32)
    values[1, 3] = torch.inf
    out = model(values)
    assert out[0].tolist() == [0.0] * 48 and not out[1].isfinite().any()


def test_layers_that_cannot_are_told_or_refused() -> None:
    model = _model(sizes=(24, 48))
    done = use_fp8(model)
    assert done.replaced == [] and "multiples of 16" in done.left["0"] and "1 dequantize" in str(done)
    with pytest.raises(QsdError, match="layer '0' has sizes"):
        use_fp8(model, ["0"])
    with pytest.raises(QsdError, match="no packed layer stored as fp8_e4m3"):
        use_fp8(_model("uaq-4"), ["0"])
    assert use_fp8(_model("uaq-4")).left == {}


def test_state_copies_and_pickles_stay_and_it_can_be_undone() -> None:
    model, values = _model(), torch.randn(4, 32)
    before, state = model(values), copy.deepcopy(model.state_dict())
    use_fp8(model)
    after = model(values)
    assert not torch.equal(after, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(again[0], Fp8Linear) and torch.equal(again(values), after)
    discard_fp8(model)
    assert torch.equal(model(values), before)


def test_gradients_and_edits_take_the_dense_way() -> None:
    model, values = _model(), torch.randn(4, 32, requires_grad=True)
    plain = copy.deepcopy(model)
    use_fp8(model)
    assert torch.equal(model(values), plain(values)) and model(values).requires_grad
    with pytest.warns(UserWarning, match="edited in place"):
        model[0].weight.mul_(2)
    assert torch.allclose(
        model(values.detach()), 2 * (plain(values) - plain[0].bias) + plain[0].bias, atol=1e-5
    )
    unpack_modules(model)
    assert type(model[0]) is nn.Linear and not isinstance(model[0], QuantizedLayer)


@pytest.mark.parametrize("cached_first", [True, False])
def test_a_cache_leaves_them_out(cached_first: bool) -> None:
    model = nn.Sequential(_model()[0], _model("uaq-4", (48, 16))[0])
    expected = copy.deepcopy(model)
    use_fp8(expected)
    values, dense = torch.randn(4, 32), 4 * 48 * 16
    if cached_first:
        assert cache_weights(model) == dense + 4 * 32 * 48
    use_fp8(model)
    if not cached_first:
        assert cache_weights(model, max_bytes=dense) == dense
    assert model[0].packed.kept is None and model[1].packed.kept is not None
    assert torch.equal(model(values), expected(values))
    discard_fp8(model)
    assert torch.equal(model(values), model[1](_model()(values)))


def test_a_layer_that_hooks_stand_before_is_told() -> None:
    model = _model()
    apply_layerwise_casting(model, torch.bfloat16, torch.float32)
    assert "call use_fp8 before" in use_fp8(model).left["0"]
    with pytest.raises(QsdError, match="layer '0' is offloaded"):
        use_fp8(model, "0")
