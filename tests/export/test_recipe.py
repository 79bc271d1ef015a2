"""Recipes: what they say, how they are applied to another checkpoint, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.exported import OPTIONS, mixed
from support.tiny import tiny_pixart
from support.tiny_pipelines import tiny_pipeline

from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.cli import main
from qsd.export import export, load_export
from qsd.export.recipe import apply_recipe, options_of, read_recipe, renderings
from qsd.quantizers import parse_options
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
    assert "nothing was predicted for this one" in capsys.readouterr().out
    assert load_export(tmp_path / "out").training is False
    stored = json.loads((tmp_path / "out" / "transformer" / "config.json").read_text(encoding="utf-8"))
    layers = stored["quantization_config"]["layers"]
    assert set(layers.values()) == {"uaq-3", "uaq-8"}
    assert all(option == ("uaq-3" if "ff" in name else "uaq-8") for name, option in layers.items())


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
        ("nothing-4", "unknown quantization option"),
        ("uaq-4g64", "cannot take 'uaq-4g64'"),
    ):
        with pytest.raises(QsdError, match=message):
            apply_recipe({"layers": {".*": text}}, tiny_pixart())


def test_renderings_name_each_tensor_once(bank: Bank) -> None:
    config = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
    found = renderings(bank, config)
    rules = [rule.rsplit("=", 1) for rule in found["tensor-type-rules.txt"].split(",")]
    names = [f"{layer.module}.weight" for layer in bank.layers]
    for name, (pattern, kind) in zip(names, rules, strict=True):
        assert kind == "f16"
        assert [other for other in names if re.search(pattern, f"model.{other}")] == [name]
    assert len(found["tensor-type.txt"].splitlines()) == len(names)
    assert len(json.loads(found["sdnq.json"])["modules_to_not_convert"]) == len(names)


def test_renderings_are_those_of_programs_that_have_the_types(bank: Bank) -> None:
    config = mixed(bank)
    found = renderings(bank, config)
    assert set(found) == {"sdnq.json"}, "uaq is no GGUF type"
    settings = json.loads(found["sdnq.json"])["modules_quant_config"]
    for layer, option in zip(bank.layers, config, strict=True):
        name = str(bank.options[option])
        size = -2 if name.startswith("kmeans_a") else -1
        expected = {"weights_dtype": f"uint{name[-1]}", "use_codebook": "kmeans" in name, "group_size": size}
        assert settings[f"{layer.module}.weight"] == expected
    assert renderings(build_bank(tiny_pixart(), parse_options(("hadamard+uaq-4",))), config * 0) == {}


def test_unknown_formats_are_refused(bank: Bank, tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "zip"}
    with pytest.raises(
        QsdError, match="unknown export format 'zip': use one of qsd, recipe, sdnq, gguf, comfy"
    ):
        export(tiny_pixart(), bank, mixed(bank), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
