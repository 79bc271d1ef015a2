"""Files for sdnq, opened in a process of their own that has diffusers and sdnq and cannot import qsd."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from support.apart import apart
from support.exported import forward, mixed
from support.tiny import pixart_inputs, tiny_pixart
from support.tiny_pipelines import pixart_alpha, tiny_unet, unet_inputs

from qsd.bank import FULL_PRECISION, Applier, Bank, build_bank
from qsd.cli import main
from qsd.export import export
from qsd.export.sdnq import codes_of_group, pack_sdnq, sdnq_weight
from qsd.quantizers import QuantizedWeight, parse_options
from qsd.support.errors import QsdError

BITS = range(2, 9)
OPTIONS = parse_options(
    [f"{method}-{bits}" for method in ("uaq", "kmeans_c", "kmeans_a") for bits in BITS]
    + ["int8", "uaq-4:sym"]
)
needs_sdnq = pytest.mark.skipif(importlib.util.find_spec("sdnq") is None, reason="pip install 'qsd[sdnq]'")
SCALED = parse_options(
    [
        "lloyd-3:f8",
        "lloyd-4:f8",
        "lloyd-5",
        "lloyd-4:s8",
        "nf4",
        "fp4",
        "fp8_e4m3",
        "fp8_e4m3:row",
        "keep",
        "uaq-4g8",
        "uaq-3g8:sym",
        "uaq-4g8:f8",
        "uaq-5g8:s8",
        "uaq-4:f8",
    ]
)
OPEN = """
import torch, sdnq, diffusers
folder, data = sys.argv[1:]
given = torch.load(data)
model = getattr(diffusers, given["class"]).from_pretrained(folder, torch_dtype=given["dtype"]).eval()
assert sum("Linear" in type(m).__name__ and type(m) is not torch.nn.Linear for m in model.modules()) > 9
with torch.no_grad():
    for name, weight in given["weights"].items():
        module = model.get_submodule(name)
        bias, module.bias = module.bias, None
        assert torch.equal(module(torch.eye(weight.shape[1])).T, weight), name
        module.bias = bias
    difference = (model(**given["inputs"], return_dict=False)[0] - given["output"]).abs().max().item()
print("difference", difference)
"""
PIPELINE = """
import torch, sdnq
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
assert any(hasattr(module, "sdnq_dequantizer") for module in pipe.transformer.modules())
pipe.set_progress_bar_config(disable=True)
draw = torch.Generator().manual_seed(0)
images = pipe("a three", num_inference_steps=2, generator=draw, output_type="pt").images
print((images - torch.load(sys.argv[2])).abs().max().item())
"""
PACK = """
import torch
from sdnq import packed_int
for bits, (codes, packed) in torch.load(sys.argv[1]).items():
    theirs = getattr(packed_int, f"pack_uint{bits}")(codes)
    assert theirs.shape == packed.shape and torch.equal(theirs, packed), bits
print("equal")
"""


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), OPTIONS)


def check(denoiser: Any, bank: Bank, config: Any, inputs: dict[str, Any], tmp_path: Path) -> float:
    """Weights are the same in float32; the largest difference of outputs over the largest output."""
    dtype = next(denoiser.parameters()).dtype
    result = export(denoiser, bank, config, tmp_path / "out", format="sdnq")
    weights = {
        layer.module: weight.dequantize()
        for layer, option, row in zip(bank.layers, config, bank.weights, strict=True)
        if option != FULL_PRECISION and layer.kind == "linear" and (weight := row[option]) is not None
    }
    with Applier(bank, denoiser) as applier:
        applier.apply(config)
        output = forward(denoiser, inputs, dtype)
    cast = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs.items()
    }
    given = {"class": type(denoiser).__name__, "dtype": dtype, "inputs": cast, "output": output}
    torch.save(given | {"weights": weights if dtype == torch.float32 else {}}, tmp_path / "expected.pt")
    printed = apart(OPEN, result.path, tmp_path / "expected.pt")
    return float(printed.split()[-1]) / output.abs().max().item()


@needs_sdnq
def test_sdnq_computes_the_same(bank: Bank, tmp_path: Path) -> None:
    config, denoiser = mixed(bank), tiny_pixart()
    assert len(bank.layers) > len(OPTIONS), "every option occurs"
    config[-1] = FULL_PRECISION
    assert check(denoiser, bank, config, pixart_inputs(), tmp_path) <= 1e-6


@needs_sdnq
def test_scaled_codebooks_groups_and_floats(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, SCALED)
    config = bank.uniform_config("keep")
    turn = 0
    for index, layer in enumerate(bank.layers):
        fits = [
            option
            for option in range(len(bank.options))
            if bank.available[index, option]
            and not (layer.kind != "linear" and bank.options[option].traits.group)
        ]
        turn = next(step for step in range(turn + 1, turn + 99) if step % len(SCALED) in fits)
        config[index] = turn % len(SCALED)
    assert set(config.tolist()) == set(range(len(SCALED)))
    assert check(denoiser, bank, config, pixart_inputs(), tmp_path) <= 1e-6


@needs_sdnq
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unets_and_16_bit_denoisers(dtype: torch.dtype, tmp_path: Path) -> None:
    denoiser: Any = tiny_unet().to(dtype)
    options = parse_options(("uaq-4", "kmeans_c-3", "kmeans_a-4", "lloyd-4:f8", "int8", "fp8_e4m3"))
    bank = build_bank(denoiser, options, graph="chain")
    assert any(layer.kind == "conv2d" for layer in bank.layers)
    difference = check(denoiser, bank, mixed(bank), unet_inputs(), tmp_path)
    assert difference <= (1e-6 if dtype == torch.float32 else 0.02)


@needs_sdnq
def test_a_whole_pipeline(tmp_path: Path) -> None:
    pipe = pixart_alpha()
    bank = build_bank(pipe, parse_options(("uaq-4", "lloyd-4:f8")))
    export(pipe, bank, mixed(bank), tmp_path / "out", format="sdnq")
    pipe.set_progress_bar_config(disable=True)
    with Applier(bank, pipe.transformer) as applier:
        applier.apply(mixed(bank))
        draw = torch.Generator().manual_seed(0)
        images = pipe("a three", num_inference_steps=2, generator=draw, output_type="pt").images
    torch.save(images, tmp_path / "images.pt")
    assert float(apart(PIPELINE, tmp_path / "out", tmp_path / "images.pt")) <= 1e-5


@needs_sdnq
def test_packing_is_that_of_sdnq(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = {}
    for bits in range(2, 8):
        codes = torch.randint(0, 1 << bits, (9 * codes_of_group(bits),), generator=generator).to(torch.uint8)
        cases[bits] = (codes, pack_sdnq(codes, bits))
    torch.save(cases, tmp_path / "codes.pt")
    assert apart(PACK, tmp_path / "codes.pt").strip() == "equal"


@pytest.mark.parametrize("bits", range(2, 8))
def test_every_bit_of_a_code_has_a_place_of_its_own(bits: int) -> None:
    count = codes_of_group(bits)
    ones = torch.tensor(
        [
            [(1 << bit) * (other == code) for other in range(count)]
            for code in range(count)
            for bit in range(bits)
        ]
    )
    packed = [tuple(pack_sdnq(row.to(torch.uint8), bits).flatten().tolist()) for row in ones]
    assert len(set(packed)) == 8 * len(packed[0]) == count * bits
    assert all(
        bin(sum(byte << 8 * place for place, byte in enumerate(row))).count("1") == 1 for row in packed
    )


def test_options_that_it_cannot_hold_are_named(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(("uaq-4", "lloyd-4g8", "hadamard+uaq-4")))
    config = bank.uniform_config("uaq-4")
    config[2:4] = (1, 2)
    names = rf"{bank.layers[2].name} \(lloyd-4g8\), {bank.layers[3].name} \(hadamard\+uaq-4\)"
    with pytest.raises(QsdError, match=names):
        export(denoiser, bank, config, tmp_path / "out", format="sdnq")
    assert not (tmp_path / "out").exists()


def test_segments_are_refused(tmp_path: Path) -> None:
    bank = build_bank(tiny_unet(), parse_options(("uaq-4",)))
    assert any(layer.segment for layer in bank.layers)
    with pytest.raises(QsdError, match=r"cannot hold these layers exactly: \S+\[0:\d+\] \(uaq-4\)"):
        export(tiny_unet(), bank, bank.uniform_config("uaq-4"), tmp_path / "out", format="sdnq")


def test_rounding_is_noticed(bank: Bank) -> None:
    weight = bank.weights[0][0]
    assert weight is not None and sdnq_weight(weight) is not None
    stored = {name: tensor.clone() for name, tensor in weight.stored.items()}
    stored["scale"].fill_(2047 / (1 << 14))
    stored["zero_point"].fill_((1 << 14) - 1)
    product_rounds = QuantizedWeight(weight.option, weight.shape, stored)
    assert sdnq_weight(product_rounds) is None, "scale times zero point needs more digits than float32 has"


def test_an_earlier_export_of_either_format_is_replaced(bank: Bank, tmp_path: Path) -> None:
    out = export(tiny_pixart(), bank, mixed(bank), tmp_path / "out", format="sdnq").path
    assert "import sdnq" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    export(tiny_pixart(), bank, bank.uniform_config("uaq-3"), tmp_path / "out")
    assert "sdnq" not in (out / "config.json").read_text(encoding="utf-8")
    assert main(["export", "--check", str(tmp_path / "out")]) == 0
