"""YAML files over their bases."""

from pathlib import Path

import pytest

from qsd.support.errors import QsdError
from qsd.support.paths import find, shipped_root
from qsd.support.yaml_files import read_yaml, with_bases


def test_a_file_adds_to_its_bases(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("a: {x: 1, y: [1, 2]}\nb: 1\n")
    (tmp_path / "middle.yaml").write_text("base: below.yaml\na: {y: [3]}\nc: 2\n")
    (tmp_path / "top.yaml").write_text("base: middle.yaml\na: {z: 4}\nb: null\n")
    names = [file.name for file in with_bases(tmp_path / "top.yaml")]
    assert names == ["below.yaml", "middle.yaml", "top.yaml"]
    assert read_yaml(tmp_path / "top.yaml") == {"a": {"x": 1, "y": [3], "z": 4}, "b": None, "c": 2}


def test_a_base_may_be_shipped(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: ranker.yaml\nout: own\n")
    assert with_bases(tmp_path / "own.yaml")[0] == find("ranker.yaml")
    assert read_yaml(tmp_path / "own.yaml")["data"]["target"]


def test_best_differs_from_its_family_in_what_the_study_found() -> None:
    family, best = (
        read_yaml(shipped_root() / "lightning_configs" / f"dit{end}.yaml") for end in ("", "_best")
    )
    assert family["data"]["stores"] == best["data"]["stores"]
    assert family["model"]["network"] == best["model"]["network"]
    assert family["model"]["responses"] != best["model"]["responses"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: circle.yaml\na: 1\n", "in 8 steps"),
        ("base: [1]\n", "in 8 steps"),
        ("base: absent.yaml\n", "absent.yaml: no such file"),
        ("- 1\n", "not a YAML mapping"),
        ("", "not a YAML mapping"),
        ("a: [\n", "cannot be read as YAML"),
        ("a: \udcff\n", "cannot be read as YAML"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "circle.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(QsdError, match=message):
        with_bases(file)
