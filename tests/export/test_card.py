"""Model cards say what the files hold."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from support.exported import OPTIONS, mixed
from support.tiny import tiny_pixart
from support.tiny_pipelines import tiny_pipeline

from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.export import export
from qsd.export.card import base_model_of
from qsd.quantizers import parse_options


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), parse_options(OPTIONS))


def test_the_head_and_the_table_of_roles(bank: Bank, tmp_path: Path) -> None:
    config = mixed(bank)
    config[0] = FULL_PRECISION
    measured = {"fid": 0.25, "num_images": 512, "seeds": [3, 4], "conditions": None}
    result = export(tiny_pixart(), bank, config, tmp_path, document={"measured": measured})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {"library_name": "diffusers", "tags": ["qsd", "quantized"]}
    assert f"| bytes | {result.num_bytes:,} |" in body
    assert f"| bits per weight of the weight layers | {result.average_bits:.4g} |" in body
    for line in ("| fid | 0.25 |", "| num_images | 512 |", "| seeds | 3, 4 |", "with the seeds and counts"):
        assert line in body
    assert "Predicted" not in body and "conditions" not in body
    rows = [line.split(" | ") for line in body.splitlines() if line.endswith(") |")][1:]
    assert sum(int(row[1]) for row in rows) == len(bank.layers)
    assert "full precision (1)" in body
    weights = [int(row[2].replace(",", "")) for row in rows]
    bits = np.average([float(row[3]) for row in rows], weights=weights)
    assert bits == pytest.approx(result.average_bits, abs=0.01)


def test_a_pipeline_says_how_it_is_opened(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    own = build_bank(pipe.transformer, parse_options(("uaq-4",)))
    export(pipe, own, own.uniform_config("uaq-4"), tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f'pipe = {type(pipe).__name__}.from_pretrained("FOLDER")' in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("format", ["qsd", "sdnq"])
def test_a_variant_is_told(tmp_path: Path, format: str) -> None:
    pipe = tiny_pipeline()
    own = build_bank(pipe.transformer, parse_options(("uaq-4",)))
    for what, place in ((pipe, "FOLDER"), (pipe.transformer, "FOLDER/transformer")):
        export(what, own, own.uniform_config("uaq-4"), tmp_path, variant="w4", format=format)
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert f'.from_pretrained("{place}", variant="w4")' in text


def test_a_recipe_does_not_say_that_it_holds_weights(bank: Bank, tmp_path: Path) -> None:
    export(tiny_pixart(), bank, mixed(bank), tmp_path, format="recipe")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "It holds no weights." in card and "are stored in few bits" not in card


def test_the_card_of_an_earlier_export_is_replaced(bank: Bank, tmp_path: Path) -> None:
    export(tiny_pixart(), bank, mixed(bank), tmp_path)
    first = (tmp_path / "README.md").read_text(encoding="utf-8")
    export(tiny_pixart(), bank, np.zeros(len(bank.layers), dtype=np.int8), tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") != first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maker/model", "maker/model"),
        ("/folder/model", None),
        ("model", None),
        ("./x", None),
        ("a/b/c", None),
    ],
)
def test_only_names_of_a_hub_are_told(name: str, expected: str | None) -> None:
    class Named:
        name_or_path = name

    assert base_model_of(Named()) == expected
