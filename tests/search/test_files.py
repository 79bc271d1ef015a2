"""Fronts and configs on disk, what reading damaged ones says, and the plot."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsd.configs.document import config_from_json, config_to_json, load_config, save_config
from qsd.search import Front, FrontMeta, plot_front
from qsd.search.plot import Points
from qsd.support.documents import with_hash
from qsd.support.errors import QsdError

LAYERS = ("block.0.q", "block.0.k", "proj")
OPTIONS = ("uaq-3", "uaq-4")
DENOISER = {"class": "PixArtTransformer2DModel", "weights_hash": "abc"}


def make_front(certain: bool = False) -> Front:
    meta = FrontMeta(
        LAYERS,
        OPTIONS,
        denoiser=DENOISER,
        options_hash="h",
        ranker={"file": "ranker.safetensors"},
        max_bytes=120,
        max_bits=4.0,
        seed=3,
        confidence=0.7,
        settings={"population": 8},
        command="qsd search",
        versions={"qsd": "0.1.0"},
    )
    return Front(
        configs=np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=np.int8),
        predicted=np.array([-9.5, -4.25, 1 / 3]),
        std=np.array([0.0, 0.0, 0.0] if certain else [0.1, 0.2, 0.3]),
        num_bytes=np.array([90, 100, 120]),
        avg_bits=np.array([3.0, 10 / 3, 4.0]),
        meta=meta,
        measured=[None, {"fid": 12.5, "fid_std": 0.25, "num_images": 1000, "seeds": [0, 1, 2]}, None],
    )


@pytest.mark.parametrize("certain", [True, False])
def test_a_front_survives_the_disk(tmp_path: Path, certain: bool) -> None:
    front = make_front(certain)
    front.save(tmp_path / "new" / "front.json")
    again = Front.load(tmp_path / "new" / "front.json", denoiser=DENOISER)
    assert again.meta == front.meta
    assert again.measured == front.measured
    for name in ("configs", "predicted", "num_bytes", "avg_bits", "score", "std"):
        mine, its = getattr(front, name), getattr(again, name)
        assert mine.dtype == its.dtype
        assert (mine == its).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["front.json"]


def test_a_front_says_what_is_predicted_and_what_is_measured(tmp_path: Path) -> None:
    make_front().save(tmp_path / "front.json")
    member = json.loads((tmp_path / "front.json").read_text())["members"][1]
    assert member["predicted"] == {"quality": -4.25, "std": 0.2, "objectives": {}}
    assert member["measured"]["num_images"] == 1000
    assert member["layers"] == {"block.0.q": "uaq-3", "block.0.k": "uaq-4", "proj": "uaq-3"}


def damaged(change: str) -> dict[str, Any] | str:
    front = make_front()
    members = [front._member(0)]
    document: dict[str, Any] = {"format": "qsd-front", "version": 2, "members": members}
    if change == "truncated":
        return '{"format": "qsd-fr'
    if change == "other format":
        return {"format": "qsd-config", "version": 1}
    if change == "a list":
        return "[1, 2]"
    if change == "newer":
        return {**document, "version": 3}
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", "not a JSON file"),
        ("other format", "holds 'qsd-config', not 'qsd-front'"),
        ("a list", "no qsd format"),
        ("newer", "version 3 of qsd-front"),
        ("keys missing", "entry 'denoiser': field required; search again"),
    ],
)
def test_damaged_fronts(tmp_path: Path, change: str, message: str) -> None:
    path, content = tmp_path / "front.json", damaged(change)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(QsdError, match=message) as error:
        Front.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_empty_and_foreign_fronts(tmp_path: Path) -> None:
    with pytest.raises(QsdError, match="cannot be read"):
        Front.load(tmp_path / "none.json")
    front = make_front()
    front.save(tmp_path / "front.json")
    with pytest.raises(QsdError, match=r"front.json: made for"):
        Front.load(tmp_path / "front.json", denoiser={**DENOISER, "weights_hash": "other"})
    document = json.loads((tmp_path / "front.json").read_text())
    (tmp_path / "empty.json").write_text(json.dumps(with_hash({**document, "members": []})))
    with pytest.raises(QsdError, match="no members"):
        Front.load(tmp_path / "empty.json")


def test_a_config_survives_the_disk_and_a_reordered_table(tmp_path: Path) -> None:
    config = np.array([0, 1, 1], dtype=np.int8)
    document = config_to_json(config, LAYERS, OPTIONS, DENOISER, "h", predicted={"quality": -1.0})
    assert list(document["layers"]) == list(LAYERS)
    save_config(tmp_path / "config.json", document)
    again = load_config(tmp_path / "config.json", LAYERS, OPTIONS, DENOISER)
    assert again.dtype == np.int8
    assert (again == config).all()
    other_table = ("kmeans_c-4", "uaq-4", "uaq-3")
    assert load_config(tmp_path / "config.json", LAYERS[::-1], other_table).tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            {"block.0.q": "uaq-3", "proj": "uaq-3"},
            r"layer 'block.0.k' has no option; add it with one of uaq-3, uaq-4",
        ),
        ({"proj": "uaq-3"}, r"layer 'block.0.q' \(and 1 more\) has no option"),
        (dict.fromkeys((*LAYERS, "extra"), "uaq-3"), "layer 'extra' is not in this denoiser; remove it"),
        (dict.fromkeys(LAYERS, "uaq-9"), "layer 'block.0.q' has the unknown option 'uaq-9'; use one of"),
        (dict.fromkeys(LAYERS, 3), "unknown option 3"),
        (None, "no 'layers' entry"),
    ],
)
def test_config_mistakes(layers: Any, message: str) -> None:
    document = {"format": "qsd-config", "version": 1, "denoiser": DENOISER, "layers": layers}
    with pytest.raises(QsdError, match=message) as error:
        config_from_json(document, LAYERS, OPTIONS, DENOISER, "mine.json")
    assert str(error.value).startswith("mine.json: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("denoiser", [{"class": "UNet"}, {}, None])
def test_the_config_of_another_denoiser(denoiser: Any) -> None:
    document = {"denoiser": denoiser, "layers": dict.fromkeys(LAYERS, "uaq-3")}
    with pytest.raises(QsdError, match=r"mine.json: made for"):
        config_from_json(document, LAYERS, OPTIONS, DENOISER, "mine.json")
    assert config_from_json(document, LAYERS, OPTIONS).tolist() == [0, 0, 0]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "front.json"
    front = make_front()
    front.save(path)
    before = path.read_bytes()
    front.predicted[0] = np.nan
    with pytest.raises(ValueError, match="JSON"):
        front.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["front.json"]


@pytest.mark.parametrize("certain", [True, False])
def test_the_plot_is_a_png(tmp_path: Path, certain: bool) -> None:
    front = make_front(certain)
    plot_front(front, tmp_path / "bare.png")
    points = Points([3.0, 3.5], [-8.0, -3.0], error=[0.5, 0.25], names=["uaq-3", "uaq-4"])
    unbounded = replace(front, meta=replace(front.meta, max_bits=None))
    plot_front(
        unbounded, tmp_path / "full.png", labeled=points, uniform=points, winners=points, title="digits"
    )
    for name in ("bare.png", "full.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
