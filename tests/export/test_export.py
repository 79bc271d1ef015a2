"""Export: what is reloaded computes exactly what the bank-applied denoiser computes, and sizes add up."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, PixArtTransformer2DModel, UNet2DConditionModel
from safetensors import safe_open
from support.options import SIX
from support.tiny import pixart_inputs, tiny_pixart
from support.tiny_pipelines import tiny_pipeline, tiny_unet, unet_inputs
from torch import nn

from qsd.bank import FULL_PRECISION, Applier, Bank, build_bank
from qsd.denoisers import tie_equal_weights
from qsd.denoisers.identity import identity
from qsd.export import ExportResult, export, load_export
from qsd.quantizers import Option
from qsd.runtime import PackedWeight, QuantizedConv2d, QuantizedLinear, register

ALL_OPTIONS = tuple(
    Option.parse(f"{method}-{bits}") for method in ("uaq", "kmeans_c", "kmeans_a") for bits in range(2, 9)
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
register()


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), ALL_OPTIONS)


def mixed(bank: Bank, seed: int = 0) -> np.ndarray:
    """A config in which every option occurs, if there are layers enough."""
    order = np.random.default_rng(seed).permutation(len(bank.options))
    return np.resize(order, len(bank.layers)).astype(np.int8)


@torch.inference_mode()
def forward(denoiser: nn.Module, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    cast = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs.items()
    }
    return denoiser(**cast, return_dict=False)[0]


def applied(
    denoiser: nn.Module,
    bank: Bank,
    config: np.ndarray,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Output of the bank-applied denoiser; a cast denoiser has another identity and the same codes."""
    with Applier(dataclasses.replace(bank, denoiser=identity(denoiser)), denoiser) as applier:
        applier.apply(config)
        return forward(denoiser, inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_reloaded_denoiser_equals_the_applied_one(bank: Bank, tmp_path: Path, dtype: torch.dtype) -> None:
    config = mixed(bank)
    assert len(set(config)) == len(ALL_OPTIONS), "every method and bit width occurs"
    tiny_pixart().save_pretrained(tmp_path / "full")
    full = PixArtTransformer2DModel.from_pretrained(tmp_path / "full", torch_dtype=dtype)
    export(tiny_pixart(), bank, config, tmp_path / "out")
    reloaded = PixArtTransformer2DModel.from_pretrained(tmp_path / "out" / "transformer", torch_dtype=dtype)
    assert reloaded.dtype == dtype
    expected = applied(full, bank, config, pixart_inputs(), dtype)
    assert torch.equal(forward(reloaded, pixart_inputs(), dtype), expected)


def test_weights_stay_packed_in_memory(bank: Bank, tmp_path: Path) -> None:
    config = mixed(bank)
    result = export(tiny_pixart(), bank, config, tmp_path)
    reloaded = load_export(tmp_path)
    parts = [module for module in reloaded.modules() if isinstance(module, PackedWeight)]
    layers = [
        module for module in reloaded.modules() if isinstance(module, QuantizedLinear | QuantizedConv2d)
    ]
    assert len(parts) == len(layers) == len(bank.layers)
    held = sum(buffer.numel() * buffer.element_size() for part in parts for buffer in part.parameters())
    assert held == bank.config_bytes(config) == result.code_bytes + result.codebook_bytes
    names = {name for name, _ in reloaded.named_parameters()}
    assert not names & {f"{layer.module}.weight" for layer in bank.layers}


def test_segments_and_convolutions(tmp_path: Path) -> None:
    unet = tiny_unet()
    bank = build_bank(unet, ALL_OPTIONS)
    assert any(layer.segment is not None for layer in bank.layers)
    config = mixed(bank, seed=3)
    result = export(unet, bank, config, tmp_path)
    assert result.path == tmp_path / "unet"
    reloaded = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert torch.equal(forward(reloaded, unet_inputs()), applied(unet, bank, config, unet_inputs()))
    assert_sizes(result, bank, config)
    reloaded.save_pretrained(tmp_path / "again")
    again = UNet2DConditionModel.from_pretrained(tmp_path / "again")
    assert torch.equal(forward(again, unet_inputs()), forward(reloaded, unet_inputs()))


def assert_sizes(result: ExportResult, bank: Bank, config: np.ndarray) -> None:
    """The file is header, the bank's exact bytes, and what is not quantized."""
    file = result.path / WEIGHTS
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert result.num_bytes == file.stat().st_size
    assert result.header_bytes == header
    assert result.code_bytes + result.codebook_bytes == bank.config_bytes(config)
    assert result.num_bytes == header + bank.config_bytes(config) + result.unquantized_bytes


def test_sizes_add_up(bank: Bank, tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    config = mixed(bank)
    result = export(denoiser, bank, config, tmp_path)
    assert_sizes(result, bank, config)
    assert result.full_precision_bytes == 2 * sum(tensor.numel() for tensor in denoiser.state_dict().values())
    codes = [
        layer.num_weights * bank.options[option].bits
        for layer, option in zip(bank.layers, config, strict=True)
    ]
    assert sum(codes) / 8 <= result.code_bytes <= sum(codes) / 8 + 8 * len(codes)


def test_what_is_not_quantized_is_stored_in_16_bits_only_without_loss(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    nn.init.normal_(denoiser.proj_out.bias)
    nn.init.constant_(denoiser.adaln_single.linear.bias, 0.5)
    nn.init.constant_(denoiser.caption_projection.linear_1.bias, 1e-30)
    bank = build_bank(denoiser, SIX)
    export(denoiser, bank, bank.uniform_config("uaq-4"), tmp_path)
    with safe_open(tmp_path / "transformer" / WEIGHTS, "pt") as file:
        assert file.get_tensor("proj_out.bias").dtype == torch.float32
        assert file.get_tensor("adaln_single.linear.bias").dtype == torch.float16
    reloaded = load_export(tmp_path).state_dict()
    for key, value in denoiser.state_dict().items():
        if key in reloaded:
            assert torch.equal(reloaded[key], value), key


def test_saving_the_reloaded_denoiser_again_writes_the_same_tensors(bank: Bank, tmp_path: Path) -> None:
    first = export(tiny_pixart(), bank, mixed(bank), tmp_path / "first").path
    reloaded = PixArtTransformer2DModel.from_pretrained(first)
    reloaded.save_pretrained(tmp_path / "second")
    again = PixArtTransformer2DModel.from_pretrained(tmp_path / "second")
    assert torch.equal(forward(again, pixart_inputs()), forward(reloaded, pixart_inputs()))
    with safe_open(first / WEIGHTS, "pt") as one, safe_open(tmp_path / "second" / WEIGHTS, "pt") as two:
        assert set(one.keys()) == set(two.keys())
        for key in one.keys():  # noqa: SIM118
            packed = ".packed." in key
            assert torch.equal(one.get_tensor(key), two.get_tensor(key)), key
            assert not packed or one.get_tensor(key).dtype == two.get_tensor(key).dtype, key
    manifests = []
    for folder in (first, tmp_path / "second"):
        manifests.append(json.loads((folder / "config.json").read_text())["quantization_config"])
    hashes = {"hash", "hashes"}  # of the file that an export wrote, which diffusers writes in another order
    kept = [{key: value for key, value in one.items() if key not in hashes} for one in manifests]
    assert kept[0] == kept[1]


def test_exporting_twice_writes_the_same_bytes(bank: Bank, tmp_path: Path) -> None:
    paths = [export(tiny_pixart(), bank, mixed(bank), tmp_path / name).path for name in ("a", "b")]
    for name in ("config.json", WEIGHTS):
        assert (paths[0] / name).read_bytes() == (paths[1] / name).read_bytes()


def test_casting_and_copying_keep_the_stored_types(bank: Bank, tmp_path: Path) -> None:
    export(tiny_pixart(), bank, bank.uniform_config("uaq-3"), tmp_path)
    reloaded = load_export(tmp_path)
    layer = copy.deepcopy(reloaded.transformer_blocks[0].attn1.to_q)
    exact = layer.weight.clone()
    cast = copy.deepcopy(layer).to(torch.bfloat16)
    assert cast.weight.dtype == torch.bfloat16
    stored = cast.packed[0].stored()["scale"]
    assert stored.dtype == torch.float16 and torch.equal(stored, layer.packed[0].stored()["scale"])
    assert torch.equal(cast.to(torch.float32).weight, exact)
    assert layer.to("meta").weight.is_meta


def test_diffusers_dequantizes_it(bank: Bank, tmp_path: Path) -> None:
    export(tiny_pixart(), bank, mixed(bank), tmp_path)
    reloaded = load_export(tmp_path)
    expected = forward(reloaded, pixart_inputs())
    reloaded.dequantize()
    assert type(reloaded.proj_out) is nn.Linear
    assert torch.equal(forward(reloaded, pixart_inputs()), expected)
    reloaded.save_pretrained(tmp_path / "dense")
    dense = PixArtTransformer2DModel.from_pretrained(tmp_path / "dense")
    assert torch.equal(forward(dense, pixart_inputs()), expected)


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    for name in ("to_q", "to_out"):
        for block in denoiser.transformer_blocks:
            source = denoiser.transformer_blocks[0].attn1.get_submodule(name)
            block.attn1.get_submodule(name).load_state_dict(source.state_dict())
    untied = sum(parameter.numel() for parameter in denoiser.parameters())
    assert tie_equal_weights(denoiser) >= 2
    assert sum(parameter.numel() for parameter in denoiser.parameters()) < untied
    bank = build_bank(denoiser, SIX)
    config = mixed(bank)
    result = export(denoiser, bank, config, tmp_path)
    assert_sizes(result, bank, config)
    reloaded = load_export(tmp_path)
    blocks = reloaded.transformer_blocks
    assert blocks[0].attn1.to_q.packed is blocks[1].attn1.to_q.packed
    assert blocks[0].attn1.to_q.bias is blocks[1].attn1.to_q.bias
    expected = applied(denoiser, bank, config, pixart_inputs())
    assert torch.equal(forward(reloaded, pixart_inputs()), expected)
    reloaded.save_pretrained(tmp_path / "again")
    again = PixArtTransformer2DModel.from_pretrained(tmp_path / "again")
    assert torch.equal(forward(again, pixart_inputs()), expected)
    reloaded.dequantize()
    assert blocks[0].attn1.to_q.weight is blocks[1].attn1.to_q.weight


def test_layers_may_be_left_at_full_precision(bank: Bank, tmp_path: Path) -> None:
    config = mixed(bank)
    config[::3] = FULL_PRECISION
    denoiser = tiny_pixart()
    export(denoiser, bank, config, tmp_path)
    expected = applied(denoiser, bank, config, pixart_inputs())
    assert torch.equal(forward(load_export(tmp_path), pixart_inputs()), expected)


def test_a_whole_pipeline_opens(bank: Bank, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    config = mixed(bank)
    messages: list[str] = []
    export(
        pipe,
        bank,
        config,
        tmp_path / "out",
        progress=lambda done, total, text: messages.append(f"{done}/{total} {text}"),
    )
    assert messages == ["1/3 vae", "2/3 scheduler", "3/3 transformer"]
    reloaded = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(reloaded.transformer.proj_out, QuantizedLinear)
    prompt = {
        "prompt_embeds": torch.zeros(1, 5, 12),
        "prompt_attention_mask": torch.ones(1, 5),
        "negative_prompt": None,
        "guidance_scale": 1.0,
        "num_inference_steps": 2,
        "use_resolution_binning": False,
        "height": 16,
        "width": 16,
        "output_type": "pt",
    }
    with Applier(bank, pipe.transformer) as applier:
        applier.apply(config)
        expected = pipe(**prompt, generator=torch.Generator().manual_seed(0)).images
    found = reloaded(**prompt, generator=torch.Generator().manual_seed(0)).images
    assert torch.equal(found, expected)
    swapped = DiffusionPipeline.from_pretrained(tmp_path / "out", transformer=load_export(tmp_path / "out"))
    assert torch.equal(swapped(**prompt, generator=torch.Generator().manual_seed(0)).images, expected)


def test_the_denoiser_of_a_pipeline_alone(bank: Bank, tmp_path: Path) -> None:
    export(tiny_pipeline(), bank, mixed(bank), tmp_path, whole_pipeline=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "transformer"]
