"""Rounded activations on real denoisers: against naive code, in every way of attending, and off again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from support.families import FAMILIES
from support.tiny import pixart_inputs, tiny_pixart
from support.tiny_pipelines import tiny_unet, unet_inputs
from torch import nn
from torch.utils._pytree import tree_map_only

from qsd.bank import FULL_PRECISION, ActivationTable, Applier, Bank, build_bank
from qsd.bank.activations import ActivationHooks, attention_layers, channel_axis
from qsd.configs.schedule import Schedule
from qsd.denoisers import WeightLayer, trace
from qsd.denoisers.inputs import example_inputs
from qsd.denoisers.tracing import Traced
from qsd.quantizers import Option
from qsd.quantizers.activations import Ranges, parse_activations, rotate, round_tokens
from qsd.support.errors import QsdError

TABLE = ActivationTable(parse_activations(["16", "8", "4", "8h"]))


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), [Option.parse("uaq-8")])


def _run(denoiser: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return denoiser(**inputs, return_dict=False)[0]


def _hooks(denoiser: nn.Module, traced: Traced, table: ActivationTable = TABLE) -> ActivationHooks:
    return ActivationHooks(denoiser, traced.layers, attention_layers(traced.layers, traced.graph), table)


def _hooks_on(denoiser: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in denoiser.modules())


def _real_inputs(denoiser: nn.Module) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def real(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor if not tensor.is_meta else torch.ones(tensor.shape, dtype=tensor.dtype)
        return torch.rand(tensor.shape, generator=generator)

    return tree_map_only(torch.Tensor, real, example_inputs(denoiser))


def _naive(values: torch.Tensor, bits: int = 8) -> torch.Tensor:
    rows = values.reshape(-1, values.shape[-1])
    step = (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    zero = torch.round(-rows.amin(1) / step)
    codes = (torch.round(rows / step[:, None]) + zero[:, None]).clamp(0, 2**bits - 1)
    return ((codes - zero[:, None]) * step[:, None]).reshape(values.shape)


def _naive_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, **kwargs: Any) -> torch.Tensor:
    assert not kwargs.get("is_causal") and not kwargs.get("enable_gqa")
    q, k, v = (_naive(part) for part in (query, key, value))
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (kwargs.get("scale") or q.shape[-1] ** -0.5)
    if attn_mask is not None:
        scores = scores + attn_mask
    p = scores.softmax(-1)
    step = p.amax(-1, keepdim=True) / 255
    return torch.einsum("bhqk,bhkd->bhqd", torch.round(p / step) * step, v)


def _naively(denoiser: nn.Module, inputs: dict[str, Any], layers: list[WeightLayer]) -> torch.Tensor:
    """Rounds by replaced forwards and a replaced attention function, in place of qsd's hooks."""
    attend = F.scaled_dot_product_attention
    replaced: list[nn.Module] = []

    def rounded(module: nn.Module, cuts: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
        forward = type(module).forward
        axis = 1 if isinstance(module, nn.Conv2d) else -1

        def call(x: torch.Tensor, *_: Any) -> torch.Tensor:
            parts = x.movedim(axis, -1).tensor_split(cuts, dim=-1)
            return forward(module, torch.cat([_naive(part) for part in parts], -1).movedim(-1, axis))

        return call

    cuts: dict[str, set[int]] = {}
    for layer in layers:
        for path in (layer.module, *layer.tied):
            cuts.setdefault(path, set()).update({layer.segment[0]} - {0} if layer.segment else ())
    for name, places in cuts.items():
        module = denoiser.get_submodule(name)
        if module not in replaced:
            module.forward = rounded(module, sorted(places))  # type: ignore[method-assign]
            replaced.append(module)
    F.scaled_dot_product_attention = _naive_attention
    try:
        return _run(denoiser, inputs)
    finally:
        F.scaled_dot_product_attention = attend
        for module in replaced:
            del module.forward


@pytest.mark.parametrize("family", ["pixart_alpha", "dit", "flux", "sd35"])
def test_eight_bits_everywhere_are_what_naive_code_computes(family: str) -> None:
    denoiser = FAMILIES[family].build_tiny()
    traced, inputs = trace(denoiser), _real_inputs(denoiser)
    full = _run(denoiser, inputs)
    hooks = _hooks(denoiser, traced)
    hooks.set(np.ones(len(traced.layers), np.int8))
    rounded = _run(denoiser, inputs)
    hooks.clear()
    naive = _naively(denoiser, inputs, traced.layers)
    assert (rounded - naive).abs().max() < 0.05 * (rounded - full).abs().max()
    assert torch.equal(_run(denoiser, inputs), full)
    assert _hooks_on(denoiser) == 0


@pytest.mark.parametrize("family", ["flux", "sd35"])
def test_transforms_and_static_ranges_work_in_joint_attention(family: str) -> None:
    denoiser = FAMILIES[family].build_tiny()
    traced, inputs = trace(denoiser), _real_inputs(denoiser)
    ranges: dict[str, Ranges] = {}

    def watch(layer: WeightLayer) -> Callable[[nn.Module, Any], None]:
        segment = slice(*layer.segment) if layer.segment else slice(None)

        def hook(module: nn.Module, args: Any) -> None:
            values = args[0].movedim(channel_axis(module), -1)[..., segment]
            seen = Ranges.of(values, module.weight[:, segment])
            ranges[layer.name] = ranges[layer.name].merged(seen) if layer.name in ranges else seen

        return hook

    handles = [
        denoiser.get_submodule(layer.module).register_forward_pre_hook(watch(layer))
        for layer in traced.layers
    ]
    full = _run(denoiser, inputs)
    for handle in handles:
        handle.remove()
    layer = next(layer for layer in traced.layers if "attn" in layer.module)
    module = denoiser.get_submodule(layer.module)
    for text in ("8h", "8m", "8t", "8ht", "8mt"):
        seen: dict[str, torch.Tensor] = {}
        hooks = _hooks(denoiser, traced, ActivationTable(parse_activations(["16", text]), ranges))
        first = module.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.update(before=args[0].clone())
        )
        hooks.set(np.where([layer.macs > 0 for layer in traced.layers], 1, 0))
        second = module.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.update(after=args[0].clone())
        )
        rounded = _run(denoiser, inputs)
        expected = _by_hand(seen["before"], text, ranges[layer.name])
        step = (seen["before"].max() - seen["before"].min()) / 255
        assert ((seen["after"] - expected).abs() > 1e-4 * step).float().mean() < 0.01, text
        change = (rounded - full).norm() / full.norm()
        assert 0 < change < 0.5, text
        for handle in (first, second):
            handle.remove()
        hooks.clear()
    assert torch.equal(_run(denoiser, inputs), full)
    assert _hooks_on(denoiser) == 0


def _by_hand(values: torch.Tensor, text: str, ranges: Ranges) -> torch.Tensor:
    """An option as its definition says it: transform, round, transform back."""
    divisors = ranges.smoothing() if "m" in text else torch.ones(values.shape[-1])
    turned = rotate(values) if "h" in text else values / divisors
    if "t" in text:
        low, high = (ranges.rotated_low, ranges.rotated_high) if "h" in text else (ranges.low, ranges.high)
        low, high = (low / divisors).min(), (high / divisors).max()
        step = (high - low) / 255
        zero = torch.round(-low / step)
        turned = ((torch.round(turned / step) + zero).clamp(0, 255) - zero) * step
    else:
        turned = _naive(turned)
    return rotate(turned) if "h" in text else turned * divisors


def test_both_ways_to_attend_round_alike() -> None:
    outputs = {}
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        denoiser = tiny_unet()
        denoiser.set_attn_processor(processor)
        traced = trace(tiny_unet())
        full = _run(denoiser, unet_inputs())
        hooks = _hooks(denoiser, traced)
        hooks.set(np.full(len(traced.layers), 2, np.int8))
        outputs[type(processor).__name__] = (full, _run(denoiser, unet_inputs()))
        hooks.clear()
        assert torch.equal(_run(denoiser, unet_inputs()), full)
    (full, one), (_, other) = outputs.values()
    assert (one - other).abs().max() < 0.05 * (one - full).abs().max()


def test_joint_attention_rounds_by_the_finer_of_two_makers() -> None:
    denoiser = FAMILIES["sd35"].build_tiny()
    traced = trace(denoiser)
    owners = attention_layers(traced.layers, traced.graph)
    makers = owners["transformer_blocks.0.attn"]
    names = {
        letter: [traced.layers[i].name.rpartition(".")[2] for i in found] for letter, found in makers.items()
    }
    assert {letter: set(found) for letter, found in names.items()} == {
        "q": {"to_q", "add_q_proj"},
        "k": {"to_k", "add_k_proj"},
        "v": {"to_v", "add_v_proj"},
    }


def test_segments_are_rounded_apart() -> None:
    denoiser = tiny_unet()
    traced = trace(denoiser)
    index = next(i for i, layer in enumerate(traced.layers) if layer.segment and layer.segment[0] > 0)
    layer = traced.layers[index]
    seen: list[torch.Tensor] = []
    module = denoiser.get_submodule(layer.module)
    hooks = _hooks(denoiser, traced)
    activation = np.zeros(len(traced.layers), np.int8)
    activation[index] = 2
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    hooks.set(activation)
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    _run(denoiser, unet_inputs())
    before, after = seen
    start, stop = layer.segment
    assert torch.equal(before[:, :start], after[:, :start])
    expected = round_tokens(before[:, start:stop].movedim(1, -1), 4).movedim(-1, 1)
    assert torch.equal(after[:, start:stop], expected)


def test_sixteen_bits_touch_nothing(bank: Bank) -> None:
    denoiser = tiny_pixart()
    applier = Applier(bank, denoiser, TABLE)
    config = np.zeros(len(bank.layers), np.int8)
    applier.apply(config)
    alone = _run(denoiser, pixart_inputs())
    applier.apply(config, np.zeros(len(bank.layers), np.int8))
    assert _hooks_on(denoiser) == 0
    assert torch.equal(_run(denoiser, pixart_inputs()), alone)


def test_restoring_takes_weights_and_hooks_back(bank: Bank) -> None:
    denoiser = tiny_pixart()
    full = _run(denoiser, pixart_inputs())
    with Applier(bank, denoiser, TABLE) as applier:
        applier.apply(np.zeros(len(bank.layers), np.int8), np.full(len(bank.layers), 3, np.int8))
        assert not torch.equal(_run(denoiser, pixart_inputs()), full)
    assert torch.equal(_run(denoiser, pixart_inputs()), full)
    assert _hooks_on(denoiser) == 0


def test_a_failing_forward_leaves_no_attention_mode_behind(bank: Bank) -> None:
    denoiser = tiny_pixart()
    applier = Applier(bank, denoiser, TABLE)
    applier.apply(np.full(len(bank.layers), FULL_PRECISION, np.int8), np.ones(len(bank.layers), np.int8))
    inputs = pixart_inputs()
    inputs["hidden_states"][0, 0, 0, 0] = float("nan")
    with pytest.raises(QsdError, match=r"pos_embed\.proj.*NaN"):
        _run(denoiser, inputs)
    applier.restore()
    q = torch.randn(1, 1, 4, 8)
    assert torch.equal(F.scaled_dot_product_attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
    assert torch.overrides._get_current_function_mode() is None


def test_a_schedule_changes_options_with_the_timestep(bank: Bank) -> None:
    denoiser, layers = tiny_pixart(), len(bank.layers)
    applier = Applier(bank, denoiser, TABLE)
    weights = np.full(layers, FULL_PRECISION, np.int8)
    vectors = np.stack([np.full(layers, option, np.int8) for option in (2, 0, 1)])

    def at(time: int) -> torch.Tensor:
        return _run(denoiser, pixart_inputs() | {"timestep": torch.tensor([time, time])})

    times = [900, 700, 500, 300]
    wanted = []
    for time, vector in zip(times, vectors[[0, 1, 1, 2]], strict=True):
        applier.apply(weights, vector)
        wanted.append(at(time))
    applier.apply(weights, Schedule(((0, 1), (1, 3), (3, 4)), vectors))
    for _ in range(2):  # two drawings, two calls a step
        for time, output in zip(times, wanted, strict=True):
            assert torch.equal(at(time), output)
            assert torch.equal(at(time), output)
    applier.check_drawn()
    at(900)
    at(700)
    with pytest.raises(QsdError, match="is for 4 steps, and the pipeline takes another number"):
        applier.check_drawn()  # no call tells that a drawing has ended early
    with pytest.raises(QsdError, match="takes another number"):
        at(900)
    applier.restore()
    assert _hooks_on(denoiser) == 0


@pytest.mark.parametrize(
    ("vector", "message"),
    [(np.zeros(3, np.int8), "made for this denoiser"), (np.full(99, 4, np.int8), "table has 0 to 3")],
)
def test_vectors_of_other_layers_or_tables_are_refused(bank: Bank, vector: np.ndarray, message: str) -> None:
    applier = Applier(bank, tiny_pixart(), TABLE)
    if len(vector) > 3:
        vector = np.full(len(bank.layers), 4, np.int8)
    with pytest.raises(QsdError, match=message):
        applier.apply(np.zeros(len(bank.layers), np.int8), vector)
