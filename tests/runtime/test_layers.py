"""A packed layer beside the dense layer with the same values: forward, edits, gradients, cache, compiling."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qsd.quantizers import Option, quantize
from qsd.runtime import PackedWeight, QuantizedLayer, cache_weights, discard_edits
from qsd.runtime.layers import pack_module
from qsd.runtime.packed import PackedParts
from qsd.support.errors import QsdError

OPTIONS = ("uaq-3", "kmeans_c-4", "kmeans_a-5", "uaq-8")
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(24, 10),
    "conv1d": lambda: nn.Conv1d(4, 6, 3, padding=1),
    "conv2d": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False),
    "conv3d": lambda: nn.Conv3d(4, 6, 2),
}
INPUTS = {
    "linear": (3, 24),
    "conv1d": (2, 4, 9),
    "conv2d": (2, 4, 8, 8),
    "grouped": (2, 4, 8, 8),
    "conv3d": (1, 4, 3, 4, 5),
}


def pair(
    kind: str = "linear", option: str = "kmeans_c-4", dtype: torch.dtype = torch.float32, segments: int = 1
) -> tuple[QuantizedLayer, nn.Module]:
    """A packed layer and the dense one that holds its values."""
    torch.manual_seed(0)
    dense = LAYERS[kind]()
    packed = copy.deepcopy(dense).to(dtype)
    chosen = Option.parse(option)
    parts = [quantize(part, [chosen])[chosen] for part in dense.weight.chunk(segments, dim=1)]
    pack_module(packed, PackedParts(parts), dtype)
    dense = dense.to(dtype)
    dense.weight = nn.Parameter(torch.cat([part.dequantize(dtype) for part in parts], dim=1))
    assert isinstance(packed, QuantizedLayer)
    return packed, dense


def random_input(kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(INPUTS[kind], generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_is_that_of_the_dense_layer(kind: str, segments: int, dtype: torch.dtype) -> None:
    inputs = random_input(kind, dtype)
    for option in OPTIONS:
        packed, dense = pair(kind, option, dtype, segments)
        with torch.no_grad():
            assert torch.equal(packed(inputs), dense(inputs)), option


def test_layers_share_a_buffer_without_mixing(kind: str = "linear") -> None:
    first, second = pair(option="uaq-3")[0], pair(option="kmeans_a-5")[0]
    inputs = random_input(kind)
    with torch.no_grad():
        expected = first(inputs), second(inputs)
        assert torch.equal(first(inputs), expected[0]) and torch.equal(second(inputs), expected[1])


def test_gradients_of_inputs_are_those_of_the_dense_layer() -> None:
    packed, dense = pair()
    found, expected = random_input("linear").requires_grad_(), random_input("linear").requires_grad_()
    out = packed(found)
    with torch.no_grad():
        pair(option="uaq-3")[0](random_input("linear"))  # would overwrite a shared buffer
    out.square().sum().backward()
    dense(expected).square().sum().backward()
    assert torch.equal(found.grad, expected.grad)


def test_reading_the_weight() -> None:
    packed, dense = pair()
    weight = packed.weight
    assert (weight.shape, weight.dtype, weight.device) == (
        dense.weight.shape,
        torch.float32,
        torch.device("cpu"),
    )
    assert torch.equal(weight.clone(), dense.weight) and type(weight.clone()) is Tensor
    assert torch.equal(weight.t() @ weight, dense.weight.t() @ dense.weight)
    assert torch.equal(weight[2:4].float(), dense.weight[2:4])
    assert torch.equal(torch.cat([weight, weight]), torch.cat([dense.weight, dense.weight]))
    assert weight.detach().numpy().tolist() == dense.weight.tolist() == weight.tolist()
    assert "LazyWeight" in repr(weight)
    assert packed.packed.edited is None


def test_no_edit_vanishes_outside_of_torch() -> None:
    packed, _ = pair()
    for taken in (packed.weight.numpy(), np.asarray(packed.weight)):
        with pytest.raises(ValueError, match="read-only"):
            taken[:] = 3
    takers: list[Callable[[torch.Tensor], Any]] = [
        torch.Tensor.data_ptr,
        torch.Tensor.untyped_storage,
        torch.Tensor.storage,
        torch.Tensor.share_memory_,
        torch.from_dlpack,
    ]
    for take in takers:
        with pytest.raises(QsdError, match="no memory of its own"):
            take(packed.weight)
    with pytest.raises(RuntimeError, match="swap"):
        torch.utils.swap_tensors(packed.weight, torch.zeros(10, 24))
    with pytest.raises(QsdError, match="is a tensor"):
        packed.weight = None


def test_a_copy_of_the_weight_is_a_plain_tensor() -> None:
    packed, _ = pair()
    for copied in (copy.deepcopy(packed.weight), pickle.loads(pickle.dumps(packed.weight))):
        assert type(copied) is torch.Tensor and torch.equal(copied, packed.weight)
        copied.zero_()
    assert packed.weight.abs().sum() > 0 and packed.packed.edited is None


def test_biases_are_trained_where_inputs_are_not() -> None:
    """Backward reads weights again, so those of several layers must not have shared a buffer."""
    gradients = []
    for layers in zip(pair("conv2d", "keep"), pair("conv2d", "keep"), strict=True):
        for layer in layers:
            layer.bias.requires_grad_(True)
            layer.weight.requires_grad_(False)
        inputs = random_input("conv2d")
        (layers[0](inputs).square().sum() + layers[1](2 * inputs).square().sum()).backward()
        gradients.append([layer.bias.grad for layer in layers])
    assert all(map(torch.equal, *gradients))


def assigned_back(layer: nn.Module) -> None:
    """As peft begins a LoRA by OLoRA."""
    weight = layer.weight.to(torch.float32)
    weight.data -= 1
    layer.weight.data = weight.to(torch.float32)


EDITS: dict[str, Callable[[nn.Module], None]] = {
    "+=": lambda layer: exec("layer.weight += 1"),
    "add_": lambda layer: layer.weight.add_(1),
    "data +=": lambda layer: exec("layer.weight.data += 1"),
    "data =": lambda layer: setattr(layer.weight, "data", torch.ones(10, 24)),
    "setitem": lambda layer: layer.weight.__setitem__(0, 3.0),
    "data setitem": lambda layer: layer.weight.data.__setitem__((slice(None), 1), 5.0),
    "view": lambda layer: layer.weight.view(-1)[3].fill_(7),
    "transposed": lambda layer: layer.weight.t().mul_(2),
    "chunk": lambda layer: layer.weight.chunk(2)[1].zero_(),
    "detach": lambda layer: layer.weight.detach().sub_(1),
    "copy_": lambda layer: layer.weight.copy_(torch.ones(10, 24)),
    "init": lambda layer: nn.init.zeros_(layer.weight),
    "out=": lambda layer: torch.add(torch.ones(10, 24), 1, out=layer.weight),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight], 2),
    "data = of a weight read before": assigned_back,
    "parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.ones(10, 24))),
}


@pytest.mark.filterwarnings("ignore:the weight of a quantized layer")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", EDITS)
def test_edits_of_the_weight_count_and_can_be_taken_back(name: str, mode: Any) -> None:
    packed, dense = pair()
    inputs = random_input("linear")
    before = packed(inputs)
    with mode():
        for layer in (packed, dense):
            EDITS[name](layer)
    assert torch.equal(packed.weight, dense.weight), name
    assert not torch.equal(packed(inputs), before)
    assert torch.equal(packed(inputs), dense(inputs))
    assert discard_edits(nn.Sequential(packed)) == ["0"]
    assert torch.equal(packed(inputs), before)


def test_an_edit_is_said_and_bad_ones_are_refused() -> None:
    packed, _ = pair()
    with pytest.raises(QsdError, match="cannot become"):
        packed.weight = nn.Parameter(torch.ones(3, 3))
    with pytest.warns(UserWarning, match="discard_edits"):
        packed.weight.add_(1)
    with pytest.raises(AttributeError):
        del packed.weight


@pytest.mark.filterwarnings("ignore:the weight of a quantized layer")
def test_tied_layers_share_edits_and_cache() -> None:
    packed, _ = pair()
    tied = copy.copy(packed)
    assert tied.packed is packed.packed
    assert cache_weights(nn.Sequential(packed, tied)) == 4 * 240
    packed.weight.zero_()
    assert torch.equal(tied(random_input("linear")), packed(random_input("linear")))
    assert tied.weight.abs().sum() == 0


def test_casts_change_the_dtype_of_computation_and_nothing_stored() -> None:
    for option in OPTIONS:
        packed, _ = pair(option=option)
        exact = packed.weight.clone()
        for cast in (packed.half(), packed.bfloat16(), packed.to(torch.float8_e4m3fn)):
            assert cast.weight.dtype == cast.dtype
        assert torch.equal(packed.float().weight, exact)


def test_tensors_of_files_and_of_state_dicts_load() -> None:
    packed, _ = pair()
    other, _ = pair(option="kmeans_c-4")
    for parameter in other.packed.parameters():
        parameter.data.zero_()
    state = {f"packed.0.{name}": tensor for name, tensor in packed.packed[0].stored().items()}
    assert any(tensor.is_floating_point() for tensor in state.values())
    other.load_state_dict(state | {"bias": packed.bias})
    assert torch.equal(other.weight, packed.weight)
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other.weight, packed.weight)


def test_a_layer_made_by_the_type_of_another_is_a_dense_one() -> None:
    for kind in LAYERS:
        packed, dense = pair(kind)
        settings = (4, 2) if kind == "linear" else (4, 2, 3)
        assert type(type(packed)(*settings)) is type(dense)
        assert type(copy.deepcopy(packed)) is type(packed)


def test_freezing_and_unfreezing_a_model_leaves_codes_alone() -> None:
    packed, _ = pair()
    model = nn.Sequential(packed).requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in packed.packed.parameters())
    assert model[0].bias.requires_grad


def test_the_cache_honours_its_budget() -> None:
    small, large = pair()[0], pair("conv2d")[0]
    model = nn.ModuleList([small, large])
    sizes = [4 * small.weight.numel(), 4 * large.weight.numel()]
    assert cache_weights(model) == sum(sizes)
    assert cache_weights(model, max_bytes=sum(sizes) - 1) == max(sizes)
    assert cache_weights(model, max_bytes=0) == 0
    assert small.packed.kept is None and large.packed.kept is None
    inputs = random_input("linear")
    expected = small(inputs)
    cache_weights(model)
    kept = small.packed.kept
    assert torch.equal(small(inputs), expected) and small.packed.kept is kept
    expected = pair(dtype=torch.bfloat16)[0].bfloat16()(inputs.bfloat16())
    assert torch.equal(small.bfloat16()(inputs.bfloat16()), expected), "a cast renews the cache"


@pytest.mark.parametrize("budget", [-1, 1.5, "1GB"])
def test_a_budget_is_a_number_of_bytes(budget: Any) -> None:
    with pytest.raises(QsdError, match="max_bytes"):
        cache_weights(nn.Sequential(pair()[0]), max_bytes=budget)


def test_a_cast_to_a_wider_type_frees_what_would_outgrow_the_budget() -> None:
    model = nn.Sequential(pair(dtype=torch.bfloat16)[0])
    cache_weights(model, max_bytes=2 * 240)
    expected = pair(dtype=torch.bfloat16)[0].float()(random_input("linear"))
    assert torch.equal(model.float()(random_input("linear")), expected)
    assert model[0].packed.kept is None


def test_a_cache_that_was_renewed_in_inference_mode_serves_training() -> None:
    model = nn.Sequential(pair()[0])
    cache_weights(model)
    inputs = random_input("linear", torch.bfloat16)
    with torch.inference_mode():
        model.bfloat16()(inputs)
    assert model[0].packed.kept is not None
    model(inputs.requires_grad_(True)).sum().backward()
    assert torch.equal(inputs.grad[0], model[0].weight.sum(0))


@pytest.mark.parametrize("cached", [False, True])
def test_compiled_layers_have_no_breaks_and_equal_eager_ones(cached: bool) -> None:
    model = nn.Sequential(pair("conv2d", "uaq-3")[0], nn.Flatten(2), nn.Linear(16, 24), pair()[0]).eval()
    if cached:
        cache_weights(model)
    inputs = random_input("conv2d")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(inputs), model(inputs))
        compiled.bfloat16()  # whose first call renews the cache
        assert torch.equal(compiled(inputs.bfloat16()), model(inputs.bfloat16()))


def test_meta_layers_know_their_shape() -> None:
    packed = pair()[0].to("meta")
    assert packed.weight.is_meta and packed.weight.clone().is_meta
    assert "kmeans_c-4" in repr(packed)
    assert isinstance(packed.packed[0], PackedWeight)


@pytest.mark.filterwarnings("ignore:the weight of a quantized layer")
def test_inference_mode_and_no_grad_may_alternate() -> None:
    packed, dense = pair(segments=2)
    inputs = random_input("linear")
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(packed(inputs), dense(inputs))
    with torch.inference_mode():
        cache_weights(nn.Sequential(packed))
        packed.weight.add_(1)
    packed.weight.sub_(1)
    torch.testing.assert_close(packed(inputs), dense(inputs))
