"""What people do with a denoiser, done with a quantized one: exact, or an error that says what to do."""

import copy
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    FluxPipeline,
    PixArtTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import EMAModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from support.exported import exported, forward
from support.tiny import pixart_inputs
from support.tiny_pipelines import random_denoiser, tiny_unet, unet_inputs
from torch import nn

from qsd import discard_edits
from qsd.bank import build_bank
from qsd.export.write import export
from qsd.quantizers import parse_options
from qsd.quantizers.activations import ActivationOption
from qsd.runtime.int8 import use_int8
from qsd.runtime.layers import QuantizedLayer, quantized_layers
from qsd.support.errors import QsdError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("pixart"))


@pytest.fixture(scope="module")
def unet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("unet"), "unet")


def pixart(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    return PixArtTransformer2DModel.from_pretrained(folder, torch_dtype=dtype, **settings).eval()


def unet(folder: Path, **settings: Any) -> Any:
    return UNet2DConditionModel.from_pretrained(folder, **settings).eval()


# LoRA


def with_lora(model: Any, *targets: str) -> Any:
    torch.manual_seed(0)
    return inject_adapter_in_model(
        LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False), model
    )


def adapters(model: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@pytest.mark.filterwarnings("ignore:the weight of a quantized layer")
@pytest.mark.parametrize("family", ["pixart", "unet"])
def test_lora_loads_fuses_and_comes_out_again(folder: Path, unet_folder: Path, family: str) -> None:
    if family == "pixart":
        model, inputs, targets = pixart(folder), pixart_inputs(), ("to_q", "to_out.0", "linear_1")
    else:
        model, inputs, targets = unet(unet_folder), unet_inputs(), ("to_v", "conv1", "conv_in", "proj_in")
    plain = forward(model, inputs)
    with_lora(model, *targets)
    loaded = forward(model, inputs)
    assert (loaded - plain).abs().max() > 1e-3
    for adapter in adapters(model):
        adapter.merge()  # what diffusers' fuse_lora does
    assert any(layer.packed.edited is not None for layer in quantized_layers(model).values())
    torch.testing.assert_close(forward(model, inputs), loaded, atol=1e-4, rtol=1e-3)
    with pytest.raises(QsdError, match="edited in place"):
        model.save_pretrained(folder.parent / "fused")
    for adapter in adapters(model):
        adapter.unmerge()
        adapter.enable_adapters(False)
    torch.testing.assert_close(forward(model, inputs), plain, atol=1e-4, rtol=1e-3)
    assert discard_edits(model)
    assert torch.equal(forward(model, inputs), plain)


def test_what_could_not_be_opened_again_is_not_saved(folder: Path, tmp_path: Path) -> None:
    wrapped, integers = with_lora(pixart(folder), "to_q"), pixart(folder)
    name = "transformer_blocks.1.attn1.to_q"
    assert use_int8(integers, {name: ActivationOption.parse("8")}) == [name]
    for model in (wrapped, integers):
        with pytest.raises(QsdError, match="to_q' was wrapped or replaced"):
            model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_lora_of_a_dense_copy_has_the_same_gradients(folder: Path) -> None:
    model = with_lora(pixart(folder), "to_k")
    dense = with_lora(pixart(folder).dequantize(), "to_k")
    gradients = []
    for each in (model, dense):
        each(**pixart_inputs(), return_dict=False)[0].square().mean().backward()
        gradients.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert any("lora_A" in name for name in gradients[0])
    for name, gradient in gradients[1].items():
        if "lora" in name:
            assert torch.equal(gradients[0][name], gradient), name


@pytest.mark.filterwarnings("ignore:the weight of a quantized layer")
def test_fuse_lora_of_diffusers_counts(unet_folder: Path) -> None:
    model = unet(unet_folder)
    plain = forward(model, unet_inputs())
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "conv2"], init_lora_weights=False))
    loaded = forward(model, unet_inputs())
    model.fuse_lora()
    torch.testing.assert_close(forward(model, unet_inputs()), loaded, atol=1e-4, rtol=1e-3)
    model.unfuse_lora()
    model.unload_lora()
    discard_edits(model)
    assert torch.equal(forward(model, unet_inputs()), plain)


def test_weights_are_found_by_loaders_and_not_saved(folder: Path, tmp_path: Path) -> None:
    model = pixart(folder)
    state = model.state_dict()
    name = next(iter(quantized_layers(model)))
    assert torch.equal(state[f"{name}.weight"].clone(), model.get_submodule(name).weight.clone())
    assert f"{name}.weight" not in state
    with pytest.raises(KeyError):
        state[f"{name}.colour"]
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert type(again) is OrderedDict and list(again) == list(state) and again._metadata == state._metadata
    model.load_state_dict(again)


def test_a_lora_of_flux_is_loaded(tmp_path: Path) -> None:
    """Its loader looks for the weight of every layer in the state dict of the transformer."""
    denoiser = random_denoiser("flux")
    bank = build_bank(denoiser, parse_options(["uaq-8"]))
    path = export(denoiser, bank, bank.uniform_config("uaq-8"), tmp_path).path
    model = type(denoiser).from_pretrained(path)
    names = [name for name, layer in quantized_layers(model).items() if isinstance(layer, nn.Linear)]
    lora = {}
    for name in names:
        layer = model.get_submodule(name)
        lora[f"transformer.{name}.lora_A.weight"] = torch.randn(2, layer.in_features)
        lora[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2)
    pipe = FluxPipeline(None, None, None, None, None, None, model)
    pipe.load_lora_weights(dict(lora), adapter_name="a")
    assert len(adapters(model)) == len(names)
    for name in names:
        assert torch.equal(
            model.get_submodule(name).lora_A["a"].weight, lora[f"transformer.{name}.lora_A.weight"]
        )


# compiling


def test_a_whole_denoiser_compiles_without_breaks(folder: Path) -> None:
    model = pixart(folder)
    expected = forward(model, pixart_inputs())
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(forward(compiled, pixart_inputs()), expected)


@pytest.mark.skipif(shutil.which("cc") is None, reason="inductor needs a C compiler")
def test_layers_compile_with_inductor(unet_folder: Path) -> None:
    """One linear layer, one convolution in segments or whole; whole denoisers compile for minutes."""
    model = unet(unet_folder)
    linear = next(layer for layer in quantized_layers(model).values() if isinstance(layer, nn.Linear))
    convolution = next(layer for layer in quantized_layers(model).values() if isinstance(layer, nn.Conv2d))
    inputs = torch.randn(2, linear.in_features), torch.randn(1, convolution.in_channels, 8, 8)

    def both(rows: torch.Tensor, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return linear(rows), convolution(pictures)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(both, fullgraph=True)(*inputs), both(*inputs))


# casting


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.half(), torch.float16),
        (lambda model: model.half().float(), torch.float32),
        (lambda model: model.to("cpu", torch.bfloat16), torch.bfloat16),
    ],
)
def test_a_cast_changes_the_dtype_of_computation(
    folder: Path, cast: Callable[[Any], Any], dtype: torch.dtype
) -> None:
    model = cast(pixart(folder))
    assert model.dtype == dtype
    weights = {name: layer.weight.clone() for name, layer in quantized_layers(model).items()}
    for name, layer in quantized_layers(pixart(folder, dtype)).items():
        assert torch.equal(layer.weight, weights[name]), name


def test_a_memory_format_touches_no_bits(unet_folder: Path) -> None:
    expected = forward(unet(unet_folder), unet_inputs())
    model = unet(unet_folder).to(memory_format=torch.channels_last)
    assert torch.equal(forward(model, unet_inputs()), expected)


def pipeline(unet_of: nn.Module) -> Any:
    from support.tiny_pipelines import tiny_clip, tiny_vae

    from qsd.zoo.tokenizers import clip_tokenizer

    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(77),
        unet=unet_of,
        scheduler=__import__("diffusers").DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_a_pipeline_is_cast_and_becomes_another_one(unet_folder: Path) -> None:
    pipe = pipeline(unet(unet_folder)).to(torch.bfloat16)
    assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
    assert all(layer.dtype == torch.bfloat16 for layer in quantized_layers(pipe.unet).values())
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert quantized_layers(other.unet)
    expected = forward(unet(unet_folder).bfloat16().float(), unet_inputs())
    assert torch.equal(forward(other.unet.float(), unet_inputs()), expected)


def test_an_ip_adapter_is_loaded(unet_folder: Path) -> None:
    model, plain = unet(unet_folder), tiny_unet()
    tokens, width = 4, model.config.cross_attention_dim
    cross = [name for name in plain.attn_processors if name.endswith("attn2.processor")]
    torch.manual_seed(0)
    adapter: dict[str, torch.Tensor] = {}
    for number, name in enumerate(cross):
        channels = plain.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for kind in ("k", "v"):
            adapter[f"{2 * number + 1}.to_{kind}_ip.weight"] = torch.randn(channels, width)
    projection = {
        "proj.weight": torch.randn(tokens * width, 6),
        "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    inputs = unet_inputs() | {"added_cond_kwargs": {"image_embeds": [torch.randn(2, 1, 6)]}}
    outputs = []
    for each in (model, unet(unet_folder).dequantize()):
        each._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": adapter}])
        outputs.append(forward(each, inputs))
    assert torch.equal(*outputs)
    assert (outputs[0] - forward(unet(unet_folder), unet_inputs())).abs().max() > 1e-4


# what code around a model reads


def test_dtype_device_and_memory(folder: Path) -> None:
    model = pixart(folder, torch.bfloat16)
    assert (model.dtype, model.device) == (torch.bfloat16, CPU)
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert model.get_memory_footprint() == held
    dense = pixart(folder, torch.bfloat16).dequantize()
    assert held < 0.8 * dense.get_memory_footprint()  # tables are large in tiny layers


def test_controlnet_takes_a_dequantized_copy(unet_folder: Path) -> None:
    model = unet(unet_folder)
    with pytest.raises(RuntimeError, match="packed"):
        ControlNetModel.from_unet(model)
    control = ControlNetModel.from_unet(copy.deepcopy(model).dequantize())
    assert torch.equal(control.conv_in.weight, model.conv_in.weight)
    assert isinstance(model.conv_in, QuantizedLayer), "the copy alone was dequantized"


def test_ema_follows_what_is_trained_and_keeps_codes(folder: Path) -> None:
    model = pixart(folder)
    average = EMAModel(model.parameters(), decay=0.5)
    codes = {name: p.clone() for name, p in model.named_parameters() if ".packed." in name}
    bias = model.proj_out.bias
    with torch.no_grad():
        bias.add_(1)
    average.step(model.parameters())
    average.copy_to(model.parameters())
    for name, parameter in model.named_parameters():
        if name in codes:
            assert torch.equal(parameter, codes[name]), name
