"""Recorded inputs, several denoisers under one budget, and what their messages ask for."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from support.graph_checks import assert_well_formed
from support.tiny import pixart_inputs, tiny_pixart
from support.tiny_pipelines import random_denoiser, tiny_pipeline
from support.unseen_pipelines import flux, wan
from torch import nn

import qsd
from qsd.bank import Applier
from qsd.denoisers import trace, trace_whole
from qsd.denoisers.components import Denoisers, denoiser_like, denoiser_of
from qsd.support.errors import QsdError

OPTIONS = ["uaq-4", "kmeans_c-3"]


def two_denoisers() -> Any:
    """Wan 2.2 draws with one transformer for high and one for low noise."""
    one = wan()
    second = random_denoiser("wan")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.5)
    return diffusers.WanPipeline(
        tokenizer=one.tokenizer,
        text_encoder=one.text_encoder,
        vae=one.vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=one.transformer,
        transformer_2=second,
        boundary_ratio=0.9,
    )


def test_recorded_inputs_are_those_of_the_call() -> None:
    pipe = flux()
    recorded = qsd.record_inputs(pipe)["transformer"]
    assert len(recorded["hidden_states"]) == 1
    assert recorded["joint_attention_kwargs"] == {}
    _, traced = trace_whole(pipe)
    assert traced.graph == trace(pipe.transformer).graph


def test_inputs_on_disk(tmp_path: Path) -> None:
    denoiser, path = tiny_pixart(), tmp_path / "inputs.json"
    qsd.save_inputs(pixart_inputs(), path)
    loaded = qsd.load_inputs(path)
    assert loaded["added_cond_kwargs"] == {"resolution": None, "aspect_ratio": None}
    assert torch.equal(loaded["hidden_states"], pixart_inputs()["hidden_states"])
    assert trace(denoiser, inputs=loaded).graph == trace(denoiser).graph
    with pytest.raises(QsdError, match="missing or damaged"):
        qsd.load_inputs(tmp_path / "other.json")
    with pytest.raises(QsdError, match=r"name the \.json"):
        qsd.load_inputs(tmp_path / "inputs.safetensors")


class Counting(nn.Module):
    """Asks for values, which shapes cannot answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.first(x)
        y = self.second(y) if y.sum().item() > -1e9 else self.other(y)
        return y, self.other(x)


def test_a_forward_that_asks_for_values_and_returns_two() -> None:
    traced = trace(Counting(), inputs={"x": torch.ones(2, 4)})
    assert [layer.name for layer in traced.layers] == ["first", "second", "other"]
    assert traced.graph.nodes[traced.graph.output].kind == "join"
    assert_well_formed(Counting(), traced)


def test_what_the_messages_offer() -> None:
    with pytest.raises(QsdError, match="pass inputs="):
        qsd.build_bank(Counting(), OPTIONS)
    with pytest.raises(QsdError, match="--graph chain"):
        qsd.build_bank(Counting(), OPTIONS, inputs={"x": torch.ones(2, 3)})
    assert len(qsd.build_bank(Counting(), OPTIONS, inputs={"x": torch.ones(2, 4)}).layers) == 3
    assert len(qsd.build_bank(Counting(), OPTIONS, graph="chain").layers) == 3


def test_two_denoisers_share_a_bank_and_an_export(tmp_path: Path) -> None:
    pipe = two_denoisers()
    bank = qsd.build_bank(pipe, OPTIONS)
    assert {layer.name.split(".")[0] for layer in bank.layers} == {"transformer", "transformer_2"}
    assert isinstance(denoiser_like(pipe, bank.denoiser), Denoisers)
    config = np.arange(len(bank.layers), dtype=np.int8) % 2
    result = qsd.export(pipe, bank, config, tmp_path / "out", whole_pipeline=False)
    assert set(result.paths) == {"transformer", "transformer_2"}
    reopened = qsd.load_export(tmp_path / "out")
    inputs = qsd.record_inputs(pipe)
    with Applier(bank, denoiser_like(pipe, bank.denoiser)) as applier, torch.no_grad():
        applier.apply(config)
        for name, part in reopened.named_children():
            expected = getattr(pipe, name)(**inputs[name])[0]
            assert torch.equal(part(**inputs[name])[0], expected)


def test_one_of_two_denoisers() -> None:
    pipe = two_denoisers()
    bank = qsd.build_bank(pipe, OPTIONS, denoiser="transformer_2")
    assert denoiser_of(pipe, "transformer_2") is pipe.transformer_2
    assert not any(layer.name.startswith("transformer") for layer in bank.layers)
    with pytest.raises(QsdError, match="name one of transformer, transformer_2"):
        qsd.build_bank(pipe, OPTIONS, denoiser="unet")


def test_a_quantized_denoiser_is_refused(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    bank = qsd.build_bank(denoiser, OPTIONS)
    qsd.export(denoiser, bank, bank.uniform_config("uaq-4"), tmp_path / "out")
    with pytest.raises(QsdError, match="quantized already"):
        qsd.build_bank(qsd.load_export(tmp_path / "out"), OPTIONS)


def test_a_pipeline_that_cannot_be_called_is_guessed() -> None:
    _, traced = trace_whole(tiny_pipeline())
    assert traced.graph == trace(tiny_pixart()).graph
