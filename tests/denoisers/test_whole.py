"""Recorded inputs, several denoisers under one budget, and what their messages ask for."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.configuration_utils import register_to_config
from peft import LoraConfig
from support.graph_checks import assert_well_formed
from support.tiny import pixart_inputs, tiny_pixart
from support.tiny_pipelines import sd15, tiny_pipeline, unconditional
from support.unseen_pipelines import auraflow, flux, lumina2, sana, sd3, wan22
from torch import nn

import qsd
from qsd.bank import Applier
from qsd.denoisers import holdings, trace, trace_whole
from qsd.denoisers.components import Denoisers, denoiser_like, denoiser_of, denoisers_of
from qsd.denoisers.exporting import export
from qsd.denoisers.recording import first_of_batch
from qsd.runtime.packed import PackedParts
from qsd.runtime.stacks import pack
from qsd.support.errors import QsdError

OPTIONS = ["uaq-4", "kmeans_c-3"]


def test_recorded_inputs_are_those_of_the_call() -> None:
    pipe = flux()
    recorded = qsd.record_inputs(pipe)["transformer"]
    assert len(recorded["hidden_states"]) == 1
    assert recorded["joint_attention_kwargs"] == {}
    _, traced = trace_whole(pipe)
    assert traced.graph == trace(pipe.transformer).graph


@pytest.mark.parametrize("cls", ["StableDiffusionPAGPipeline", "StableDiffusionPipeline"])
def test_recording_leaves_the_pipeline_as_it_was(cls: str) -> None:
    parts = sd15().components | {"safety_checker": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, cls)(**parts)
    before = dict(pipe.unet.attn_processors)
    qsd.record_inputs(pipe)
    assert all(pipe.unet.attn_processors[name] is kept for name, kept in before.items())
    assert len(qsd.build_bank(pipe, OPTIONS).layers) == len(qsd.build_bank(sd15(), OPTIONS).layers)


def test_the_first_of_a_batch_keeps_its_rows_of_frames() -> None:
    guided = {"sample": torch.ones(2, 4, 3, 8, 8), "encoder_hidden_states": torch.arange(6.0)[:, None]}
    first = first_of_batch(guided)
    assert first["sample"].shape == (1, 4, 3, 8, 8)
    assert torch.equal(first["encoder_hidden_states"], torch.arange(3.0)[:, None])


def test_a_config_that_lacks_what_a_guess_reads_asks_for_inputs() -> None:
    denoiser = tiny_pixart()
    denoiser.register_to_config(in_channels=None)
    with pytest.raises(QsdError, match=r"'hidden_states' .* cannot be guessed from its config; pass inputs="):
        trace(denoiser)


def test_inputs_on_disk(tmp_path: Path) -> None:
    denoiser, path = tiny_pixart(), tmp_path / "inputs.json"
    qsd.save_inputs(pixart_inputs(), path)
    loaded = qsd.load_inputs(path)
    assert loaded["added_cond_kwargs"] == {"resolution": None, "aspect_ratio": None}
    assert torch.equal(loaded["hidden_states"], pixart_inputs()["hidden_states"])
    assert trace(denoiser, inputs=loaded).graph == trace(denoiser).graph
    with pytest.raises(QsdError, match=r"other\.json: cannot be read"):
        qsd.load_inputs(tmp_path / "other.json")
    qsd.save_inputs(
        {"hidden_states": torch.ones(2), "scale": 0.5, "pair": (1, [None])}, other := tmp_path / "o.json"
    )
    assert qsd.load_inputs(other)["pair"] == (1, [None])
    other.with_suffix(".safetensors").replace(path.with_suffix(".safetensors"))
    with pytest.raises(
        QsdError, match=r"inputs\.safetensors: written with another document than inputs\.json"
    ):
        qsd.load_inputs(path)
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


class Widened(diffusers.PixArtTransformer2DModel):
    """Takes an argument that no rule makes."""

    def forward(self, hidden_states: torch.Tensor, palette: torch.Tensor, **others: Any) -> Any:
        return super().forward(hidden_states + palette, **others)


class Captioned(diffusers.ModelMixin, diffusers.ConfigMixin):
    """Reads captions of a width that its config does not tell."""

    config_name = "config.json"

    @register_to_config
    def __init__(self, in_channels: int = 4, sample_size: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)

    def forward(self, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.first(encoder_hidden_states),)


class Strict(diffusers.PixArtAlphaPipeline):
    """Needs an argument that nobody can make up."""

    def __call__(self, prompt: str, palette: torch.Tensor) -> Any:
        return self.transformer(palette=palette, **pixart_inputs())


def test_what_the_messages_offer() -> None:
    """Everything that says "pass inputs=" is helped by inputs."""
    with pytest.raises(QsdError, match=r"no diffusers config .*; pass inputs="):
        qsd.build_bank(Counting(), OPTIONS)
    assert len(qsd.build_bank(Counting(), OPTIONS, inputs={"x": torch.ones(2, 4)}).layers) == 3

    with pytest.raises(QsdError, match="no width of caption tokens; pass inputs="):
        qsd.build_bank(Captioned(), OPTIONS)
    captions = {"encoder_hidden_states": torch.ones(1, 3, 6)}
    assert len(qsd.build_bank(Captioned(), OPTIONS, inputs=captions).layers) == 1

    widened, palette = Widened(**dict(tiny_pixart().config)), torch.zeros(2, 4, 8, 8)
    layers = [layer.name for layer in trace(tiny_pixart()).layers]
    with pytest.raises(QsdError, match="'palette', which qsd cannot guess; pass inputs="):
        qsd.build_bank(widened, OPTIONS)
    given = pixart_inputs() | {"palette": palette}
    assert [layer.name for layer in trace_whole(widened, inputs=given)[1].layers] == layers

    parts = tiny_pipeline().components | {"transformer": widened}
    strict = Strict(**parts)
    with pytest.raises(QsdError, match=r"could be recorded .*pass inputs= .*qsd\.record_inputs\(pipe"):
        qsd.build_bank(strict, OPTIONS)
    recorded = qsd.record_inputs(strict, palette=palette)
    assert [layer.name for layer in trace_whole(strict, inputs=recorded)[1].layers] == layers


def test_what_the_messages_offer_for_a_chain() -> None:
    with pytest.raises(QsdError, match="pass inputs= that its forward accepts"):
        qsd.build_bank(Counting(), OPTIONS, inputs={"x": torch.ones(2, 3)})
    with pytest.raises(QsdError, match="--graph chain"):
        qsd.build_bank(Counting(), OPTIONS, inputs={"x": torch.ones(2, 3)})
    assert len(qsd.build_bank(Counting(), OPTIONS, inputs={"x": torch.ones(2, 4)}).layers) == 3
    assert len(qsd.build_bank(Counting(), OPTIONS, graph="chain").layers) == 3


def test_torch_prints_nothing_of_shapes_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    said: list[logging.LogRecord] = []
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    monkeypatch.setattr(logger, "callHandlers", said.append)
    with pytest.raises(QsdError, match="cannot be traced"):
        export(Plain(4, 4, bias=False), {"x": torch.ones(2, 3)})
    assert not said
    assert not logger.disabled


def test_two_denoisers_share_a_bank_and_an_export(tmp_path: Path) -> None:
    pipe = wan22()
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


def test_one_of_wan22() -> None:
    pipe = wan22()
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


def test_a_pipeline_that_cannot_be_called_is_guessed(caplog: pytest.LogCaptureFixture) -> None:
    _, traced = trace_whole(tiny_pipeline())
    assert traced.graph == trace(tiny_pixart()).graph
    assert "guessed from its config, not recorded: PixArtAlphaPipeline: no inputs" in caplog.text


def test_a_recorded_pipeline_is_not_guessed(caplog: pytest.LogCaptureFixture) -> None:
    trace_whole(flux())
    assert "guessed" not in caplog.text


def test_a_denoiser_that_was_changed_after_loading_is_refused() -> None:
    denoiser: Any = tiny_pixart()
    denoiser.proj_out = nn.Linear(16, 32)
    with pytest.raises(QsdError, match=r"'proj_out\.bias' is \[32\], and its config makes \[16\]"):
        qsd.build_bank(denoiser, OPTIONS)
    pipe = flux()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(QsdError, match="changed after it was loaded"):
        qsd.build_bank(pipe, OPTIONS)
    pipe.transformer.fuse_lora()
    pipe.transformer.unload_lora()
    assert qsd.build_bank(pipe, OPTIONS).layers


def test_stacks_of_experts_and_transposed_convolutions_are_weight_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=4,
        num_layers=5,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6),
        mlp_ratio=6.0,
        num_experts=4,
        moe_intermediate_dim=12,
        capacity_factors=2.0,
    ).eval()
    for name, parameter in denoiser.named_parameters():
        if ".experts." in name:  # which diffusers leaves uninitialized
            nn.init.normal_(parameter, std=0.05)
    inputs = {
        "hidden_states": torch.randn(1, 16, 4),
        "img_shapes": [(1, 4, 4)],
        "encoder_hidden_states": torch.randn(1, 6, 12),
        "encoder_hidden_states_mask": torch.ones(1, 6, dtype=torch.bool),
        "timestep": torch.tensor([0.5]),
        "return_dict": False,
    }
    bank = qsd.build_bank(denoiser, ["uaq-4", "lloyd-4g8"], inputs=inputs)
    stacks = [layer for layer in bank.layers if layer.kind == "experts"]
    assert {layer.module.rpartition(".")[2] for layer in stacks} == {"gate_up_proj", "down_proj"}
    for layer in stacks:
        experts, rows, columns = denoiser.get_parameter(layer.module).shape
        assert layer.shape == (experts * rows, columns)
    assert holdings(denoiser, bank.layers).share > 0.8
    config = np.arange(len(bank.layers), dtype=np.int8) % 2
    with Applier(bank, denoiser) as applier, torch.no_grad():
        before = {name: value.clone() for name, value in denoiser.state_dict().items()}
        applier.apply(config)
        expected = denoiser(**inputs)[0]
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
    qsd.export(denoiser, bank, config, tmp_path / "out")
    reopened: Any = qsd.load_export(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(reopened(**inputs)[0], expected)
        reopened.dequantize()
        assert torch.equal(reopened(**inputs)[0], expected)
    assert isinstance(reopened.get_parameter(stacks[0].module), nn.Parameter)


class Upsampling(nn.Module):
    """Ends in a transposed convolution of a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor, return_dict: bool = True) -> torch.Tensor:
        up: torch.Tensor = self.up(torch.cat([self.first(x), self.second(x)], dim=1))
        return up


def test_transposed_convolutions_are_weight_layers() -> None:
    denoiser, x = Upsampling(), torch.randn(1, 3, 8, 8)
    bank = qsd.build_bank(denoiser, ["uaq-4"], inputs={"x": x})
    last = bank.layers[-1]
    assert (last.name, last.kind, last.shape) == ("up", "conv_transpose2d", (8, 3, 4, 4))
    assert last.macs == 8 * 8 * 8 * 3 * 16
    with torch.no_grad():
        full = denoiser(x)
        with Applier(bank, denoiser) as applier:
            applier.apply(np.zeros(3, dtype=np.int8))
            applied = denoiser(x)
        assert not torch.equal(applied, full)
        for layer, (weight,) in zip(bank.layers, bank.weights, strict=True):
            pack(denoiser, layer.module, PackedParts([weight]), torch.float32)
        assert torch.equal(denoiser(x), applied)


@pytest.mark.parametrize("build", [flux, sd3, auraflow, sana, lumina2, wan22])
def test_what_was_recorded_can_be_written(build: Any, tmp_path: Path) -> None:
    recorded = qsd.record_inputs(build())
    qsd.save_inputs(recorded, tmp_path / "inputs.json")
    read = qsd.load_inputs(tmp_path / "inputs.json")
    assert read.keys() == recorded.keys()
    for name, inputs in recorded.items():
        for argument, value in inputs.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(read[name][argument], value)


@pytest.mark.parametrize("cls", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_pictures_are_drawn_over_in_full_when_inputs_are_recorded(cls: str) -> None:
    parts = sd15().components | {"safety_checker": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, cls)(**parts)
    assert "sample" in qsd.record_inputs(pipe)["unet"]


class _PicturesAlone(diffusers.DDPMPipeline):
    """Knows no latents, and takes few steps of what it is given unless told to take all."""

    def __call__(  # type: ignore[override]
        self, image: Any = None, strength: float = 0.3, num_inference_steps: int = 50, output_type: str = "np"
    ) -> Any:
        if output_type != "np":
            raise ValueError("pictures alone")
        for _ in range(int(strength * num_inference_steps)):
            self.unet(torch.zeros(1, 3, 16, 16), torch.tensor(1))


def test_a_pipeline_that_returns_no_latents_is_recorded() -> None:
    pipe = unconditional()
    other = _PicturesAlone(pipe.unet, pipe.scheduler)
    assert qsd.record_inputs(other)["unet"]["sample"].shape == (1, 3, 16, 16)


def test_the_decoder_of_wuerstchen_is_a_denoiser() -> None:
    """Its list of mappers has empty places."""
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt

    decoder = WuerstchenDiffNeXt(
        c_cond=8,
        c_r=8,
        c_hidden=[8, 8],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        clip_embd=12,
    ).eval()
    pipe = SimpleNamespace(components={"decoder": decoder, "vqgan": None}, decoder=decoder)
    assert denoisers_of(pipe) == {"decoder": decoder}
    inputs = {
        "x": torch.zeros(1, 4, 8, 8),
        "r": torch.zeros(1),
        "effnet": torch.zeros(1, 16, 3, 3),
        "clip": torch.zeros(1, 5, 12),
    }
    assert len(trace(decoder, inputs=inputs).layers) == 36


def test_a_denoiser_that_the_call_never_reaches_may_be_left_out() -> None:
    class TwoNets(diffusers.DDPMPipeline):
        def __init__(self, unet: Any, scheduler: Any, spare_unet: Any) -> None:
            super().__init__(unet, scheduler)
            self.register_modules(spare_unet=spare_unet)

        def __call__(self) -> None:
            """Calls one of the two."""
            self.unet(torch.zeros(1, 3, 8, 8), 1)

    parts = unconditional().components
    spare = diffusers.UNet2DModel(**dict(parts["unet"].config) | {"in_channels": 4, "out_channels": 4})
    with pytest.raises(QsdError, match=r"'spare_unet' .*, or take 'unet' alone \(`--denoiser unet`\)"):
        qsd.record_inputs(TwoNets(**parts, spare_unet=spare.eval()))
