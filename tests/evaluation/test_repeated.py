"""What repeats in every step is computed once a batch, and nobody can tell from what is drawn."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_pipelines import PAPER_PIPELINES, PROMPTS, pixart_alpha, unconditional
from support.unseen_pipelines import UNSEEN_PIPELINES, wan22
from torch import Tensor, nn

import qsd
from qsd.denoisers.components import denoiser_of
from qsd.evaluation import EvaluationSettings, repeated
from qsd.evaluation.generate import Generator
from qsd.evaluation.repeated import Repeated
from qsd.labels import Measurer

PIPELINES = PAPER_PIPELINES | UNSEEN_PIPELINES | {"wan22": wan22, "unconditional": unconditional}

CHANGES: dict[str, dict[str, Any]] = {
    **{family: {"height": 32, "width": 32} for family in UNSEEN_PIPELINES},
    "wan": {"height": 32, "width": 32, "num_frames": 5},
    "wan22": {"height": 32, "width": 32, "num_frames": 5},
    "dit": {"guidance": 1.0},
    "unconditional": {"guidance": 1.0, "prompts": None},
}


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    prompts = str(tmp_path / "prompts.txt")
    return EvaluationSettings(prompts=prompts, num_images=4, steps=4, guidance=3.0, batch_size=2)


@contextlib.contextmanager
def never(self: Repeated) -> Iterator[None]:
    """In place of `Repeated.once`: every step computes everything."""
    yield


def measured(pipe: Any, bank: Any, settings: EvaluationSettings) -> list[Any]:
    """Labels, latents and images of full precision and of the bank's two options, one after another."""
    measurer = Measurer(pipe, bank, settings)
    configs = [np.full(len(bank.layers), option, np.int8) for option in (0, 1, 0)]
    drawn = [measurer.full_precision(0), *(measurer.measure(config, 0) for config in configs)]
    return [(some.labels, some.latents, some.frames) for some in drawn]


@pytest.mark.parametrize("family", PIPELINES)
def test_labels_are_the_same_bit_for_bit(
    family: str, settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = PIPELINES[family]()
    pipe.set_progress_bar_config(disable=True)
    settings = dataclasses.replace(settings, **CHANGES.get(family, {}))
    bank = qsd.build_bank(pipe, ["uaq-2", "uaq-4"])
    once = measured(pipe, bank, settings)
    monkeypatch.setattr(Repeated, "once", never)
    every = measured(pipe, bank, settings)
    for (labels, latents, frames), (all_labels, all_latents, all_frames) in zip(once, every, strict=True):
        assert labels == all_labels
        assert torch.equal(latents, all_latents) and torch.equal(frames, all_frames)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[nn.Module]:
    """Calls of Linear layers, behind the back of hooks."""
    calls: Counter[nn.Module] = Counter()
    forward = nn.Linear.forward

    def counting(self: nn.Linear, values: Tensor) -> Tensor:
        calls[self] += 1
        return forward(self, values)

    monkeypatch.setattr(nn.Linear, "forward", counting)
    return calls


def test_keys_and_values_are_made_once_a_batch(
    settings: EvaluationSettings, counted: Counter[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pixart_alpha()
    pipe.set_progress_bar_config(disable=True)
    block = denoiser_of(pipe).transformer_blocks[0]
    cross = [block.attn2.to_k, block.attn2.to_v, denoiser_of(pipe).caption_projection.linear_1]
    generator = Generator(pipe, settings, unwatched=True)
    list(generator.batches(0))  # which these are is found out
    for every in (1, settings.steps):
        counted.clear()
        drawn = list(generator.batches(0))
        assert [counted[layer] for layer in cross] == [every * len(drawn)] * len(cross)
        assert counted[block.attn2.to_q] == settings.steps * len(drawn)
        assert not any("forward" in vars(module) for module in denoiser_of(pipe).modules())
        monkeypatch.setattr(repeated, "MOST_BYTES", 0)  # no room


def test_who_looks_inside_sees_every_step(settings: EvaluationSettings) -> None:
    pipe = pixart_alpha()
    pipe.set_progress_bar_config(disable=True)
    seen = Counter[str]()
    layer = denoiser_of(pipe).transformer_blocks[0].attn2.to_k
    generator = Generator(pipe, settings, unwatched=True)
    list(generator.batches(0))
    handle = layer.register_forward_hook(lambda *_: seen.update(["hook"]))
    batches = len(list(generator.batches(0)))
    handle.remove()
    assert seen["hook"] == settings.steps * batches


class Toy(nn.Module):
    """A denoiser with one layer inside."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.eval()


class Counted(nn.Module):
    """Doubles its input, and counts how often it did."""

    def __init__(self, made: Callable[[Tensor], Any] = lambda values: values * 2) -> None:
        super().__init__()
        self.made, self.calls = made, 0

    def forward(self, values: Tensor) -> Any:
        self.calls += 1
        return self.made(values)


def known(layer: nn.Module, values: Tensor) -> Repeated:
    """What has seen the layer repeat itself, over several batches."""
    remembering = Repeated([Toy(layer)])
    for _ in range(3):
        with torch.no_grad(), remembering.once():
            for _ in range(3):
                layer(values)
    return remembering


def test_what_was_changed_in_place_is_made_anew() -> None:
    layer, values = Counted(), torch.ones(3)
    with torch.no_grad(), known(layer, values).once():
        layer.calls = 0
        first = layer(values)
        assert layer(values.view(3)) is first and layer.calls == 1
        first += 1  # the caller's own business
        assert torch.equal(layer(values), torch.full((3,), 2.0)) and layer.calls == 2
        values += 1
        assert torch.equal(layer(values), torch.full((3,), 4.0)) and layer.calls == 3
        assert torch.equal(layer(values[1:]), torch.full((2,), 4.0)) and layer.calls == 4


def test_nothing_outlives_a_batch() -> None:
    layer, values = nn.Linear(3, 2), torch.ones(1, 3)
    remembering = known(layer, values)
    for _ in range(2):
        layer.weight.data = layer.weight.data + 1
        with torch.no_grad(), remembering.once():
            drawn = [layer(values) for _ in range(3)]
        assert torch.equal(drawn[-1], nn.functional.linear(values, layer.weight, layer.bias))
        assert drawn[0] is drawn[-1]


@pytest.mark.parametrize("made", [torch.rand_like, lambda values: {values}])
def test_what_differs_from_call_to_call_is_left_alone(made: Callable[[Tensor], Any]) -> None:
    layer, values = Counted(made), torch.ones(3)
    with torch.no_grad(), known(layer, values).once():
        layer.calls = 0
        for _ in range(3):
            layer(values)
    assert layer.calls == 3


def test_calls_that_do_not_count() -> None:
    layer, values = Counted(), torch.ones(3)
    remembering = known(layer, values)
    with torch.inference_mode():
        unversioned = torch.ones(3)
    with remembering.once():
        layer.calls = 0
        for _ in range(2):
            layer(values)  # gradients
            with torch.inference_mode():
                layer(values)
            with torch.no_grad():
                layer(unversioned)
        assert layer.calls == 6
        layer.train()
        with torch.no_grad():
            layer(values)
            layer(values)
        assert layer.calls == 8
    with pytest.raises(RuntimeError, match="drawing"), remembering.once():
        raise RuntimeError("drawing failed")
    assert "forward" not in vars(layer)
