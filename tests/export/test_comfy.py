"""Files for ComfyUI, read by the package that it computes with, in a process that cannot import qsd."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.apart import apart
from support.tiny import tiny_pixart
from support.tiny_pipelines import random_denoiser, tiny_unet

from qsd.bank import Bank, build_bank
from qsd.export import export
from qsd.export.original import Layout, layout_of
from qsd.quantizers import parse_options
from qsd.support.errors import QsdError

OPTIONS = parse_options(("keep", "int8", "fp8_e4m3", "w4a8"))
needs_kitchen = pytest.mark.skipif(
    importlib.util.find_spec("comfy_kitchen") is None, reason="pip install 'qsd[comfy]'"
)
READ = """
import json, torch
from comfy_kitchen.tensor import QuantizedTensor, get_layout_class
from safetensors import safe_open
LAYOUTS = {
    "int8_tensorwise": "TensorWiseINT8Layout",
    "float8_e4m3fn": "TensorCoreFP8Layout",
    "asym_w4a8_int8": "AsymW4A8Int8Layout",
}
for path, expected in torch.load(sys.argv[1]).items():
    with safe_open(path, "pt") as file:
        layers = json.loads(file.metadata()["_quantization_metadata"])["layers"]
        marked = {key.removesuffix(".comfy_quant") for key in file.keys() if key.endswith("comfy_quant")}
        assert marked == set(layers) == set(expected)
        for name, settings in layers.items():
            assert json.loads(bytes(file.get_tensor(name + ".comfy_quant").tolist())) == settings
            codes = file.get_tensor(name + ".weight")
            layout = LAYOUTS[settings["format"]]
            shape = list(codes.shape)
            more = {}
            if settings["format"] == "asym_w4a8_int8":
                shape[1] *= 2
                more = {key: settings[key] for key in ("group_size", "convrot_groupsize")}
                more |= {key: file.get_tensor(name + ".weight_" + key) for key in ("s_channel", "codebook")}
            scale = "s_rel" if more else "scale"
            params = get_layout_class(layout).Params(
                scale=file.get_tensor(name + ".weight_" + scale),
                orig_dtype=torch.float32,
                orig_shape=tuple(shape),
                **more,
            )
            weight = QuantizedTensor(codes, layout, params).dequantize()
            exact = settings["format"] != "asym_w4a8_int8"  # products of the rotation may be summed otherwise
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=0 if exact else 1e-6)
print("equal")
"""


@needs_kitchen
def test_comfy_kitchen_restores_the_same_weights(tmp_path: Path) -> None:
    expected = {}
    for kind, denoiser in {"flux": random_denoiser("flux"), "pixart": tiny_pixart()}.items():
        bank = build_bank(denoiser, OPTIONS)
        config = bank.uniform_config("keep")
        layout = layout_of(denoiser, denoiser.state_dict())
        assert layout.original == (kind == "flux")
        whole = in_turn(bank, config, layout)
        assert set(config.tolist()) == {0, 1, 2, 3}
        result = export(denoiser, bank, config, tmp_path / kind, format="comfy")
        path = result.path / "diffusion_model.safetensors"
        expected[str(path)] = whole
        with safe_open(path, "pt") as file:
            keys = file.keys()
            extra = ("comfy_quant", "weight_scale", "weight_s_rel", "weight_s_channel", "weight_codebook")
            names = {key for key in keys if not key.endswith(extra)}
        assert names == {tensor.name for tensor in layout.tensors}
    torch.save(expected, tmp_path / "expected.pt")
    assert apart(READ, tmp_path / "expected.pt").strip() == "equal"


def in_turn(bank: Bank, config: np.ndarray, layout: Layout) -> dict[str, torch.Tensor]:
    """Gives linear layers all options in turn, one for each tensor of the file; returns quantized tensors."""
    places = {layer.module: index for index, layer in enumerate(bank.layers)}
    segmented = {layer.module for layer in bank.layers if layer.segment}
    turn, expected = 0, {}
    for tensor in layout.tensors:
        modules = [key.removesuffix(".weight") for key in tensor.keys]
        if not all(module in places for module in modules) or segmented & set(modules):
            continue
        chosen = [places[module] for module in modules]
        kinds = [0, 1, 2, 3] if len(modules) == 1 else [3, 1, 0]
        option = kinds[turn % len(kinds)] if bank.layers[chosen[0]].kind == "linear" else 0
        config[chosen] = option if bank.available[chosen, option].all() else 0
        turn += 1
        if config[chosen[0]]:
            weights = [bank.weights[place][config[place]] for place in chosen]
            whole = torch.cat([weight.dequantize() for weight in weights if weight is not None])
            whole = torch.cat(whole.chunk(2)[::-1]) if tensor.swapped else whole
            expected[tensor.name.removesuffix(".weight")] = whole
    return expected


def test_what_it_cannot_hold_is_named(tmp_path: Path) -> None:
    unet = tiny_unet()
    bank = build_bank(unet, parse_options(("int8", "keep", "uaq-4")))
    convolution = next(index for index, layer in enumerate(bank.layers) if layer.kind == "conv2d")
    config = bank.uniform_config("keep")
    config[convolution] = 0
    with pytest.raises(QsdError, match=rf"comfy cannot hold .*: {bank.layers[convolution].name} \(int8\);"):
        export(unet, bank, config, tmp_path / "out", format="comfy")
    linear = next(index for index, layer in enumerate(bank.layers) if layer.kind == "linear")
    config[convolution], config[linear] = 1, 2
    with pytest.raises(QsdError, match=r"\(uaq-4\); use int8, w4a8 or fp8_e4m3 for whole linear layers"):
        export(unet, bank, config, tmp_path / "out", format="comfy")


def test_fused_weights_have_one_scale(tmp_path: Path) -> None:
    flux = random_denoiser("flux")
    bank = build_bank(flux, OPTIONS)
    config = bank.uniform_config("keep")
    for index, layer in enumerate(bank.layers):
        if ".attn.to_" in layer.module and "single" not in layer.module:
            config[index] = 2
    with pytest.raises(
        QsdError, match=r"comfy: .*to_q \(fp8_e4m3\), .* are one tensor 'double_blocks.0.img_attn"
    ):
        export(flux, bank, config, tmp_path / "out", format="comfy")
    assert not (tmp_path / "out").exists()


def test_settings_keep_inputs_as_they_are(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(("keep", "int8")))
    config = bank.uniform_config("keep")
    linear = next(index for index, layer in enumerate(bank.layers) if layer.kind == "linear")
    config[linear] = 1
    result = export(denoiser, bank, config, tmp_path / "out", format="comfy")
    with safe_open(result.path / "diffusion_model.safetensors", "pt") as file:
        layers = json.loads(file.metadata()["_quantization_metadata"])["layers"]
    assert layers == {
        bank.layers[linear].module: {"format": "int8_tensorwise", "full_precision_matrix_mult": True}
    }
