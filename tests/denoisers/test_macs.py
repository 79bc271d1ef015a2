"""Multiply-accumulates against closed forms, and against PyTorch's own counter."""

import dataclasses
from typing import Any

import pytest
import torch
from support.families import FAMILIES
from support.tiny import pixart_inputs, tiny_pixart
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from qsd.denoisers import trace
from qsd.denoisers.inputs import example_inputs
from qsd.denoisers.macs import with_macs


def test_a_transformer_by_hand() -> None:
    denoiser = tiny_pixart()
    layers = {layer.name: layer for layer in trace(denoiser, inputs=pixart_inputs()).layers}
    width, tokens, words = 16, 16, 5
    assert layers["transformer_blocks.0.attn1.to_q"].macs == tokens * width * width
    assert layers["transformer_blocks.0.attn2.to_k"].macs == words * width * width
    assert layers["transformer_blocks.1.ff.net.0.proj"].macs == tokens * width * 4 * width
    assert layers["pos_embed.proj"].macs == tokens * width * 4 * 2 * 2
    assert layers["adaln_single.linear"].macs == width * 6 * width


def test_what_pipelines_call_with_counts_and_a_failure_is_said(caplog: pytest.LogCaptureFixture) -> None:
    plain = trace(tiny_pixart(), inputs=pixart_inputs()).layers
    called = trace(tiny_pixart(), inputs=pixart_inputs() | {"return_dict": False}).layers
    assert [layer.macs for layer in called] == [layer.macs for layer in plain]
    assert not caplog.records
    silent = with_macs(tiny_pixart(), plain, {"no_such": 1})
    assert silent == plain
    assert "PixArtTransformer2DModel are not counted, so activations have no budgets" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_forward_that_asks_for_values_is_given_them(device: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = trace(tiny_pixart(), inputs=pixart_inputs()).layers
    denoiser: Any = tiny_pixart()
    forward = denoiser.forward

    def selecting(hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        rows = torch.nonzero(hidden_states.flatten(1).abs().sum(1))[:, 0]  # as many as there are values
        return forward(hidden_states[rows], **kwargs)

    denoiser.forward = selecting
    uncounted = [dataclasses.replace(layer, macs=0) for layer in plain]
    counted = with_macs(denoiser.to(device), uncounted, pixart_inputs())
    values = device == "cpu"
    assert counted == (plain if values else uncounted)
    assert ("are not counted" in caplog.text) != values
    assert not any(module._forward_hooks for module in denoiser.modules())


@pytest.mark.parametrize("family", ["sd15", "sd35", "dit"])
def test_the_sum_is_what_pytorch_counts_for_the_same_operations(family: str) -> None:
    denoiser = FAMILIES[family].build_tiny()
    layers = trace(denoiser).layers
    counted = sum(layer.macs for layer in layers)
    counter: Any = FlopCounterMode(display=False)
    inputs = tree_map_only(
        torch.Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype), example_inputs(denoiser)
    )
    with counter, torch.no_grad():
        denoiser(**inputs, return_dict=False)
    flops = counter.get_flop_counts()["Global"]
    attention = sum(count for op, count in flops.items() if "bmm" in str(op) or "attention" in str(op))
    assert 2 * counted == sum(flops.values()) - attention


def test_layers_that_no_module_call_reads_count_nothing() -> None:
    denoiser = FAMILIES["hunyuan_dit"].build_tiny("meta")
    silent = [layer.role for layer in trace(denoiser).layers if not layer.macs]
    assert silent and {role.partition(".")[0] for role in silent} == {"pool_attn"}
