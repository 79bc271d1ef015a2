"""Files for sdnq, opened in a process of their own that has diffusers and sdnq and cannot import qsd."""

import importlib.util
import json
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
from qsd.denoisers.tracing import chain_graph
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
        "uaq-5g8",
    ]
)
DRAWN: dict[str, Any] = {
    "num_inference_steps": 2,
    "use_resolution_binning": False,
    "output_type": "np",
}
OPEN = """
import json
import diffusers, sdnq, torch
from sdnq import packed_int
given = torch.load(sys.argv[1])
for bits, (codes, packed) in given["codes"].items():
    theirs = getattr(packed_int, f"pack_uint{bits}")(codes)
    assert theirs.shape == packed.shape and torch.equal(theirs, packed), bits
differences = {}
for name, case in given["cases"].items():
    kind = getattr(diffusers, case["class"])
    model = kind.from_pretrained(case["folder"], torch_dtype=case["dtype"]).eval()
    assert sum(hasattr(module, "sdnq_dequantizer") for module in model.modules()) > 9
    with torch.no_grad():
        for path, weight in case["weights"].items():
            module = model.get_submodule(path)
            bias, module.bias = module.bias, None
            assert torch.equal(module(torch.eye(weight.shape[1])).T, weight), (name, path)
            module.bias = bias
        output = model(**case["inputs"], return_dict=False)[0].float()
    differences[name] = ((output - case["output"]).abs().max() / output.abs().max()).item()
pipe = diffusers.DiffusionPipeline.from_pretrained(given["pipeline"])
assert any(hasattr(module, "sdnq_dequantizer") for module in pipe.transformer.modules())
pipe.set_progress_bar_config(disable=True)
draw = torch.Generator().manual_seed(0)
images = pipe("a three", **given["drawn"], generator=draw).images
differences["pipeline"] = float(abs(images - given["images"].numpy()).max())
print(json.dumps(differences))
"""


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), OPTIONS)


def case(denoiser: Any, bank: Bank, config: Any, inputs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An export and what it must compute; its linear weights bit for bit in float32."""
    dtype = next(denoiser.parameters()).dtype
    result = export(denoiser, bank, config, folder, format="sdnq")
    weights = {
        layer.module: weight.dequantize()
        for layer, option, row in zip(bank.layers, config, bank.weights, strict=True)
        if option != FULL_PRECISION and layer.kind == "linear" and (weight := row[option]) is not None
    }
    with Applier(bank, denoiser) as applier:
        applier.apply(config)
        output = forward(denoiser, inputs, dtype).float()
    cast = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs.items()
    }
    return {
        "class": type(denoiser).__name__,
        "folder": str(result.path),
        "dtype": dtype,
        "inputs": cast,
        "output": output,
        "weights": weights if dtype == torch.float32 else {},
    }


def scaled(folder: Path) -> dict[str, Any]:
    """Every option of :data:`SCALED` occurs, those in groups in linear layers."""
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, SCALED)
    config = bank.uniform_config("keep")
    turn = 0
    for index, layer in enumerate(bank.layers):
        fits = {
            number
            for number, option in enumerate(bank.options)
            if bank.available[index, number] and (layer.kind == "linear" or not option.traits.group)
        }
        turn = next(step for step in range(turn + 1, turn + 99) if step % len(SCALED) in fits)
        config[index] = turn % len(SCALED)
    assert set(config.tolist()) == set(range(len(SCALED)))
    return case(denoiser, bank, config, pixart_inputs(), folder)


@needs_sdnq
def test_sdnq_computes_the_same(bank: Bank, tmp_path: Path) -> None:
    config, denoiser = mixed(bank), tiny_pixart()
    assert len(bank.layers) > len(OPTIONS), "every option occurs"
    config[-1] = FULL_PRECISION
    cases = {
        "transformer": case(denoiser, bank, config, pixart_inputs(), tmp_path / "pixart"),
        "scaled": scaled(tmp_path / "scaled"),
    }
    options = parse_options(("uaq-4", "kmeans_c-3", "kmeans_a-4", "lloyd-4:f8", "int8", "fp8_e4m3"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        unet: Any = tiny_unet().to(dtype)
        built = build_bank(unet, options, traced=chain_graph(unet))
        assert any(layer.kind == "conv2d" for layer in built.layers)
        cases[str(dtype)] = case(unet, built, mixed(built), unet_inputs(), tmp_path / str(dtype))
    pipe = pixart_alpha()
    pipe.set_progress_bar_config(disable=True)
    built = build_bank(pipe.transformer, parse_options(("uaq-4", "lloyd-4:f8")))
    export(pipe, built, mixed(built), tmp_path / "pipeline", format="sdnq")
    with Applier(built, pipe.transformer) as applier:
        applier.apply(mixed(built))
        draw = torch.Generator().manual_seed(0)
        images = pipe("a three", **DRAWN, generator=draw).images
    given = {
        "cases": cases,
        "codes": known_codes(),
        "pipeline": str(tmp_path / "pipeline"),
        "images": torch.from_numpy(images),
        "drawn": DRAWN,
    }
    torch.save(given, tmp_path / "given.pt")
    differences = json.loads(apart(OPEN, tmp_path / "given.pt"))
    assert set(differences) == {*cases, "pipeline"}
    for name, difference in differences.items():
        assert difference <= (0.02 if "float16" in name else 1e-5 if name == "pipeline" else 1e-6), (
            differences
        )


def known_codes() -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Bits -> codes, and how they are packed."""
    draw = torch.Generator().manual_seed(0)
    drawn = {
        bits: torch.randint(0, 1 << bits, (9 * codes_of_group(bits),), generator=draw).to(torch.uint8)
        for bits in range(2, 8)
    }
    return {bits: (codes, pack_sdnq(codes, bits)) for bits, codes in drawn.items()}


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
