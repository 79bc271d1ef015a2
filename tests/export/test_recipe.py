"""Recipes: what they say, how they are applied to another checkpoint, and what is refused."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.apart import apart
from support.exported import OPTIONS, mixed
from support.tiny import tiny_pixart
from support.tiny_pipelines import random_denoiser, sd15, tiny_pipeline

from qsd.bank import Bank, build_bank
from qsd.cli import main
from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.tracing import chain_graph, trace
from qsd.export import export, load_export
from qsd.export.original import Layout, layout_of
from qsd.export.recipe import apply_recipe, options_of, read_recipe
from qsd.export.renderings import renderings
from qsd.quantizers import DEFAULT_OPTIONS, Option, parse_options
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), parse_options(OPTIONS))


def test_a_recipe_gives_its_own_checkpoint_the_same_weights(bank: Bank, tmp_path: Path) -> None:
    config = mixed(bank)
    result = export(tiny_pixart(), bank, config, tmp_path, format="recipe")
    assert result.num_bytes == sum(path.stat().st_size for path in result.path.iterdir())
    recipe = read_recipe(result.path / "recipe.json")
    assert recipe["layers"] == {
        layer.name: str(bank.options[option]) for layer, option in zip(bank.layers, config, strict=True)
    }
    again, chosen = apply_recipe(recipe, tiny_pixart())
    assert [str(again.options[option]) for option in chosen] == list(recipe["layers"].values())
    for layer, (one, other) in enumerate(zip(config, chosen, strict=True)):
        old, new = bank.weights[layer][one], again.weights[layer][other]
        assert old is not None and new is not None
        assert all(old.stored[name].equal(new.stored[name]) for name in old.stored)


def test_the_command_applies_a_recipe_to_a_fine_tune(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    for parameter in pipe.transformer.parameters():
        parameter.data += 0.01
    pipe.save_pretrained(tmp_path / "tuned")
    recipe = {"format": "qsd-recipe", "version": 1, "layers": {".*ff.*": "uaq-3", ".*": "uaq-8"}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    words = ["--recipe", str(tmp_path / "recipe.json"), "--pipeline", str(tmp_path / "tuned")]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "nothing" in line]
    assert re.match(r" *of the recipe \(unknown\) +nothing +nothing", lines[0])
    assert re.match(r" *this one \(weights [0-9a-f]{8}\) +nothing +nothing", lines[1])
    assert load_export(tmp_path / "out").training is False
    stored = json.loads((tmp_path / "out" / "transformer" / "config.json").read_text(encoding="utf-8"))
    layers = stored["quantization_config"]["layers"]
    assert set(layers.values()) == {"uaq-3", "uaq-8"}
    assert all(option == ("uaq-3" if "ff" in name else "uaq-8") for name, option in layers.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recipe_of_whole_weights_of_a_unet(tmp_path: Path, dtype: str) -> None:
    """Its bank split no weight (`--graph chain`), as a bank for sdnq does not; the trace splits some."""
    pipe = sd15()
    pipe.save_pretrained(tmp_path / "full")
    traced = chain_graph(pipe.unet)
    bank = build_bank(pipe.unet, parse_options(["uaq-4", "keep"]), traced=traced)
    out = export(pipe, bank, bank.uniform_config("uaq-4"), tmp_path / "recipe", format="recipe").path
    words = ["--recipe", str(out / "recipe.json"), "--pipeline", str(tmp_path / "full"), "--dtype", dtype]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 0
    stored = json.loads((tmp_path / "out" / "unet" / "config.json").read_text(encoding="utf-8"))
    assert list(stored["quantization_config"]["layers"]) == [layer.name for layer in bank.layers]
    assert not stored["quantization_config"]["segments"]


def test_names_go_first_and_then_the_first_expression() -> None:
    entries = {"a.*": "uaq-2", "a1": "uaq-3", ".*": "keep"}
    assert options_of(entries, ["a1", "a2", "b"], "r") == ["uaq-3", "uaq-2", "keep"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": "uaq-4"}, "r: layer 'b' has no option"),
        ({".*": "uaq-4", "c": "uaq-3"}, "r: 'c' fits no layer"),
        ({".*": "uaq-4", "(": "uaq-3"}, r"r: '(' is no layer and no regular expression"),
    ],
)
def test_entries_that_do_not_fit(entries: dict[str, str], message: str) -> None:
    with pytest.raises(QsdError, match=re.escape(message)):
        options_of(entries, ["a", "b"], "r")


def test_options_that_do_not_fit(bank: Bank) -> None:
    for text, message in (
        ("nothing-4", "^r: unknown quantization option"),
        ("uaq-4g64", "cannot take 'uaq-4g64'"),
    ):
        with pytest.raises(QsdError, match=message):
            apply_recipe({"layers": {".*": text}}, tiny_pixart(), "r")


def test_numbers_go_with_a_recipe(bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"measured": {"fid": 1.25, "num_images": 200}, "predicted": {"-log(fid)": -0.2}}
    result = export(tiny_pixart(), bank, mixed(bank), tmp_path / "r", format="recipe", document=document)
    recipe = read_recipe(result.path / "recipe.json")
    assert {"measured": recipe["measured"], "predicted": recipe["predicted"]} == document
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "same")
    words = ["--recipe", str(result.path / "recipe.json"), "--pipeline", str(tmp_path / "same")]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "this one" in printed and "of the recipe (" not in printed
    assert "fid 1.25" in printed and "-log(fid) -0.2" in printed


def rendered(bank: Bank, options: list[str]) -> dict[str, str]:
    """Renderings of a recipe that gives layers these options, in turn."""
    chosen = [(layer, Option.parse(options[index % len(options)])) for index, layer in enumerate(bank.layers)]
    return renderings(chosen, layout_of(tiny_pixart(), tiny_pixart().state_dict()))


def test_renderings_name_each_tensor_once(bank: Bank) -> None:
    found = rendered(bank, ["keep"])
    rules = [rule.rsplit("=", 1) for rule in found["tensor-type-rules.txt"].split(",")]
    names = [f"{layer.module}.weight" for layer in bank.layers]
    assert len(rules) == len(names)
    for pattern, kind in rules:
        assert kind == "f16"
        assert len([other for other in names if re.search(pattern, f"model.{other}")]) == 1
    assert len(found["tensor-type.txt"].splitlines()) == len(names)
    assert len(json.loads(found["sdnq.json"])["modules_to_not_convert"]) == len(names)


def test_renderings_are_those_of_programs_that_have_the_types(bank: Bank) -> None:
    found = rendered(bank, ["uaq-3", "kmeans_c-4", "kmeans_a-5"])
    assert set(found) == {"sdnq.json"}, "uaq is no GGUF type, and torchao has no codebooks"
    settings = json.loads(found["sdnq.json"])["modules_quant_config"]
    for layer, name in zip(bank.layers, ["uaq-3", "kmeans_c-4", "kmeans_a-5"], strict=False):
        size = -2 if name.startswith("kmeans_a") else -1
        expected = {"weights_dtype": f"uint{name[-1]}", "use_codebook": "kmeans" in name, "group_size": size}
        assert settings[f"{layer.module}.weight"] == expected
    assert rendered(bank, ["hadamard+uaq-4"]) == {}


def test_rules_speak_of_the_original_checkpoint() -> None:
    flux = random_denoiser("flux")
    layers = [layer for layer in trace(flux).layers if not layer.segment]
    layout = layout_of(flux, flux.state_dict())
    found = renderings([(layer, Option.parse("q8_0")) for layer in layers], layout)
    assert r"(^|\.)double_blocks\.0\.img_attn\.qkv\.weight$=q8_0" in found["tensor-type-rules.txt"].split(",")
    kinds = [(layer, Option.parse("q4_0" if "to_k" in layer.name else "q8_0")) for layer in layers]
    assert "tensor-type-rules.txt" not in renderings(kinds, layout), "one tensor has one type"


TORCHAO = """
import json, torch
from torchao.core.config import config_from_dict
from torchao.quantization import quantize_
config = config_from_dict(json.loads(open(sys.argv[1]).read()))
model = torch.nn.ModuleDict({name: torch.nn.Linear(64, 8, bias=False) for name in "abcd"})
quantize_(model, config, filter_fn=None)
print(json.dumps({
    name: [type(module.weight).__name__, getattr(module.weight, "block_size", None)]
    for name, module in model.items()
}))
"""


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="pip install torchao")
def test_torchao_reads_its_rendering(tmp_path: Path) -> None:
    options = {"a": "uaq-4g32", "b": "int8", "c": "fp8_e4m3:row", "d": "keep"}
    chosen = [
        (WeightLayer(name, name, None, "other", "linear", (8, 64)), Option.parse(option))
        for name, option in options.items()
    ]
    found = renderings(chosen, Layout("Three", (), False))
    (tmp_path / "torchao.json").write_text(found["torchao.json"], encoding="utf-8")
    printed = apart(TORCHAO, tmp_path / "torchao.json")
    assert json.loads(printed) == {
        "a": ["IntxUnpackedToInt8Tensor", [1, 32]],
        "b": ["IntxUnpackedToInt8Tensor", [1, 64]],
        "c": ["Float8Tensor", [1, 64]],
        "d": ["Parameter", None],
    }


def test_unknown_formats_are_refused(bank: Bank, tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "zip"}
    with pytest.raises(
        QsdError, match="unknown export format 'zip': use one of qsd, recipe, sdnq, gguf, comfy"
    ):
        export(tiny_pixart(), bank, mixed(bank), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_documented_table_is_what_options_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(.+?)` \| (yes|no) \| (yes|no) \| (yes|no) \| (yes|no) \|$", page, re.M)
    assert [text for text, *_ in table] == [str(option) for option in DEFAULT_OPTIONS]
    for text, *held in table:
        carriers = {"qsd"} | Option.parse(text).carriers
        expected = ["yes" if name in carriers else "no" for name in ("qsd", "sdnq", "gguf", "comfy")]
        assert held == expected, text
