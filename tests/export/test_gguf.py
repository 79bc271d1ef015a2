"""GGUF files, read by the package gguf and opened by stock diffusers in a process that cannot import qsd."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.apart import apart
from support.exported import forward
from support.families import FAMILIES
from support.tiny import tiny_pixart
from support.tiny_pipelines import unet_inputs

from qsd.bank import FULL_PRECISION, Applier, Bank, build_bank
from qsd.export import export
from qsd.export.original import layout_of
from qsd.export.weights import quantized_modules
from qsd.quantizers import parse_options
from qsd.support.errors import QsdError

gguf = pytest.importorskip("gguf")
pytest.importorskip("libgguf")

ROUNDED_ONCE = parse_options(("keep", "q8_0", "q4_0", "q5_0"))
"""Types whose values are one product each: diffusers multiplies in float16, whatever it computes in."""
OPTIONS = (*ROUNDED_ONCE, *parse_options(("q4_1", "iq4_nl", "q6_k", "q4_k")))
OPEN = """
import inspect, json
import diffusers, torch
from diffusers import GGUFQuantizationConfig
from diffusers.loaders import single_file_model, single_file_utils
# the width of FLUX.1 is a constant in diffusers
source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
assert source.count("inner_dim = 3072") == 1
names = dict(vars(single_file_utils))
exec(source.replace("inner_dim = 3072", "inner_dim = 64"), names)
single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]["checkpoint_mapping_fn"] = names[
    "convert_flux_transformer_checkpoint_to_diffusers"
]
differences = {}
for kind, given in torch.load(sys.argv[1]).items():
    model = getattr(diffusers, given["class"]).from_single_file(
        given["folder"] + "/model.gguf",
        config=given["folder"],
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    ).eval()
    quantized = {name for name, module in model.named_modules() if type(module).__name__ == "GGUFLinear"}
    assert quantized == given["quantized"], quantized ^ given["quantized"]
    with torch.no_grad():
        output = model(**given["inputs"], return_dict=False)[0]
    differences[kind] = ((output - given["output"]).abs().max() / output.abs().max()).item()
print(json.dumps(differences))
"""


def unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=16,
        norm_num_groups=4,
    ).eval()


def flux() -> Any:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        in_channels=32,
        axes_dims_rope=(8, 12, 12),
        guidance_embeds=True,
    ).eval()


def sd3() -> Any:
    torch.manual_seed(0)
    known = FAMILIES["sd35"]
    changes = {"caption_projection_dim": 64, "joint_attention_dim": 32, "pooled_projection_dim": 32}
    changes |= {"attention_head_dim": 32, "num_attention_heads": 2, "qk_norm": "rms_norm"}
    return diffusers.SD3Transformer2DModel(**(known.full | known.tiny | changes)).eval()


def inputs(kind: str) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    if kind == "unet":
        return unet_inputs() | {"encoder_hidden_states": normal(2, 5, 32)}
    text = {"encoder_hidden_states": normal(1, 5, 32), "pooled_projections": normal(1, 32)}
    if kind == "sd3":
        return text | {"hidden_states": normal(1, 4, 8, 8), "timestep": torch.tensor([500])}
    ids = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3), "guidance": torch.tensor([3.5])}
    return text | ids | {"hidden_states": normal(1, 16, 32), "timestep": torch.tensor([0.5])}


KINDS: dict[str, Callable[[], Any]] = {"unet": unet, "flux": flux, "sd3": sd3}


def coupled(bank: Bank, denoiser: Any) -> np.ndarray:
    """A config in which all options occur and what is one tensor in the original checkpoint has one."""
    config = np.zeros(len(bank.layers), dtype=np.int8)
    available = bank.available
    tensors = layout_of(denoiser, denoiser.state_dict()).tensors
    turn = 0
    for tensor in tensors:
        modules = {key.removesuffix(".weight") for key in tensor.keys if key.endswith(".weight")}
        places = [index for index, layer in enumerate(bank.layers) if layer.module in modules]
        if places:
            shared = np.flatnonzero(available[places].all(axis=0))
            config[places] = shared[turn % len(shared)]
            turn += 1
    return config


def test_diffusers_computes_the_same(tmp_path: Path) -> None:
    expected = {}
    for kind, make in KINDS.items():
        denoiser = make()
        bank = build_bank(denoiser, ROUNDED_ONCE)
        config = coupled(bank, denoiser)
        assert {str(bank.options[option]) for option in config} >= {"keep", "q8_0", "q4_0"}
        result = export(denoiser, bank, config, tmp_path / kind, format="gguf")
        card = (tmp_path / kind / "README.md").read_text(encoding="utf-8")
        assert ("at FLUX.1's width alone" if kind == "flux" else "from_single_file") in card
        quantized = set()
        with Applier(bank, denoiser) as applier:
            applier.apply(config)
            for layer, option in zip(bank.layers, config, strict=True):
                if not bank.options[option].traits.keep:
                    quantized.add(layer.module)
                    weight = denoiser.get_submodule(layer.module).weight
                    weight.data.copy_(weight.half())
            output = forward(denoiser, inputs(kind))
        expected[kind] = {
            "class": type(denoiser).__name__,
            "folder": str(result.path),
            "quantized": quantized,
            "inputs": inputs(kind),
            "output": output,
        }
    torch.save(expected, tmp_path / "expected.pt")
    differences = json.loads(apart(OPEN, tmp_path / "expected.pt"))
    assert set(differences) == set(KINDS)
    assert max(differences.values()) <= 2e-6, differences


def test_the_reader_gives_every_tensor_back_bit_for_bit(tmp_path: Path) -> None:
    denoiser = flux()
    bank = build_bank(denoiser, OPTIONS)
    config = coupled(bank, denoiser)
    result = export(denoiser, bank, config, tmp_path / "out", format="gguf")
    reader = gguf.GGUFReader(result.path / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "flux"
    assert fields["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    read = {tensor.name: tensor for tensor in reader.tensors}
    state = denoiser.state_dict()
    weights = quantized_modules(bank, config)
    for original in layout_of(denoiser, state).tensors:
        stored = read.pop(original.name)
        parts = []
        for key in original.keys:
            pieces = [weight for _, weight in weights.get(key.removesuffix(".weight"), [])]
            if not pieces or not key.endswith(".weight"):
                parts.append(state[key].numpy())
            elif pieces[0].option.traits.keep:
                parts.append(np.concatenate([piece.dequantize().numpy() for piece in pieces], axis=1))
            else:
                assert {str(piece.option).upper() for piece in pieces} == {stored.tensor_type.name}
                parts.append(np.concatenate([piece.stored["blocks"].numpy() for piece in pieces], axis=1))
        expected = np.concatenate(parts)
        if original.swapped:
            expected = np.concatenate(np.split(expected, 2)[::-1])
        if expected.dtype != np.uint8:
            assert stored.tensor_type.name in ("F32", "F16")
            assert stored.tensor_type.name == "F32" or expected.ndim > 1
        assert np.array_equal(stored.data, expected), original.name
    assert not read
    assert result.num_bytes == sum(
        (result.code_bytes, result.codebook_bytes, result.unquantized_bytes, result.header_bytes)
    )


def test_one_tensor_has_one_type(tmp_path: Path) -> None:
    denoiser = flux()
    bank = build_bank(denoiser, parse_options(("q8_0", "q4_0")))
    config = bank.uniform_config("q8_0")
    place = next(index for index, layer in enumerate(bank.layers) if layer.module.endswith("0.attn.to_k"))
    config[place] = 1
    names = (
        rf"{bank.layers[place].module.replace('to_k', 'to_q')} \(q8_0\), {bank.layers[place].module} \(q4_0\)"
    )
    with pytest.raises(QsdError, match=rf"gguf: {names}.*are one tensor .*; give them one option"):
        export(denoiser, bank, config, tmp_path / "out", format="gguf")
    assert not (tmp_path / "out").exists()


def test_other_options_are_refused_and_other_classes_keep_their_names(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(("keep", "uaq-4")))
    with pytest.raises(QsdError, match=r"gguf cannot hold these layers exactly: \S+ \(uaq-4\).*and \d+ more"):
        export(denoiser, bank, bank.uniform_config("uaq-4"), tmp_path / "out", format="gguf")
    config = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
    result = export(denoiser, bank, config, tmp_path / "out", format="gguf")
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(result.path / "model.gguf").tensors}
    assert set(read) == set(denoiser.state_dict())
    for name, tensor in denoiser.state_dict().items():
        assert np.array_equal(read[name].data, tensor.numpy()), "float32 weights stay as they are"
