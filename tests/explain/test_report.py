"""The page of a run, parsed: nothing from elsewhere, nothing of a name taken for markup."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_store

from qsd.cli import main
from qsd.evaluation.grid import ImageRow, draw_grid, strips
from qsd.search import Front
from qsd.search.front import FrontMeta
from qsd.store import Store

EVIL = '</script><img src=x onerror="alert(1)">&amp;'


class Page(HTMLParser):
    """Tags, links and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.cells, self.circles = [], [], [], []
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href", "action", "data") if name in values]
        assert not any(name.startswith("on") for name in values)
        if tag == "td":
            self._cell = ""
        if tag == "circle":
            self.circles.append(values["data-text"])

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag == "td":
            self.cells.append(self._cell)
            self._cell = None


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    old = synthetic_store(tmp_path / "old.h5", num_records=12, num_blocks=2, probed=True)
    layers = [replace(old.header.layers[0], name=EVIL), *old.header.layers[1:]]
    nodes = tuple(replace(node, name=EVIL) if node.layer == 0 else node for node in old.header.graph.nodes)
    header = replace(old.header, layers=layers, graph=replace(old.header.graph, nodes=nodes))
    store = Store.create(folder / "store.h5", header, old.records)
    meta = FrontMeta(
        layer_names=tuple(layer.name for layer in layers),
        option_names=tuple(map(str, header.options)),
        denoiser=header.denoiser,
        max_bits=4.5,
        command="qsd search <b>",
    )
    size = store.total_bytes()[:3]
    order = np.argsort(size)
    quality = np.array([1.0, 2.0, 3.0])
    front = Front(store.records.config[:3][order], quality, quality / 10, size[order], quality + 2, meta)
    front.save(folder / "front.json")
    rows = [{"name": "<i>uniform</i>", "bytes": 12345, "avg_bits": 3.25, "fid": 1.5, "seeds": [1]}]
    (folder / "summary.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return folder


def page_of(run, tmp_path, capsys, *words):
    out = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out), *words]) == 0
    capsys.readouterr()
    return Page(out.read_text(encoding="utf-8")), out.read_text(encoding="utf-8")


def test_page_is_self_contained_and_escapes_names(run, tmp_path, capsys):
    page, text = page_of(run, tmp_path, capsys)
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    assert "://" not in text and EVIL not in text
    assert page.tags.count("script") == 1 and page.tags.count("i") == page.tags.count("b") == 0
    assert EVIL in page.cells and "<i>uniform</i>" in page.cells  # shown as text
    assert "12,345" in page.cells and "1.5" in page.cells
    assert len(page.circles) == 3 and page.circles[0].startswith("3.000 bits")
    assert page.tags.count("figure") == 6


def test_rows_of_a_grid_can_be_laid_over_each_other(run, tmp_path, capsys):
    colours = torch.tensor([[250, 0, 0], [0, 250, 0]], dtype=torch.uint8)
    images = colours[:, None, :, None, None].expand(2, 3, 3, 8, 8)
    rows = [ImageRow(title, image) for title, image in zip(("full <b>\n16", "small"), images, strict=True)]
    draw_grid(rows, ["a", "b", "c"], run / "grid.png")
    (first, red), (second, green) = strips(run / "grid.png")
    assert (first, second) == ("full <b>\n16", "small") and red.size == green.size
    for image, colour in ((red, colours[0]), (green, colours[1])):
        pixels = np.array(image)[4:-4, 4:20]
        assert (pixels == colour.numpy()).all()
    page, text = page_of(run, tmp_path, capsys)
    assert page.tags.count("img") == 6 + 1 + 2 + 2 and "full &lt;b&gt;, 16" in text
    assert all(link.startswith("data:image/") for link in page.links)


def test_a_search_without_store_has_layers_and_options_alone(run, tmp_path, capsys):
    store = run / "store.h5"
    moved = store.rename(tmp_path / "moved.h5")
    (run / "summary.json").unlink()
    page, _ = page_of(run, tmp_path, capsys)
    assert "figure" not in page.tags and EVIL in page.cells
    page, _ = page_of(run, tmp_path, capsys, "--store", str(moved))
    assert page.tags.count("figure") == 6


def test_refusals(run, tmp_path, capsys):
    def refused(*words):
        assert main(["report", *map(str, words), "--out", str(tmp_path / "none.html")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not (tmp_path / "none.html").exists()
        return error

    other = synthetic_store(tmp_path / "other.h5", num_records=12, num_blocks=1, probed=True)
    assert "made for Synthetic with weights" in refused(run, "--store", other.path)
    assert "no such store" in refused(run, "--store", tmp_path / "missing.h5")
    (run / "summary.json").write_text("[]", encoding="utf-8")
    assert "is no summary" in refused(run)
    assert "holds no front.json" in refused(tmp_path)
