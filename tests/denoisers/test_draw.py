"""Drawings of graphs."""

import pytest
from support.families import FAMILIES

from qsd.denoisers import Graph, trace
from qsd.denoisers.draw import draw
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(FAMILIES["pixart_alpha"].build_tiny("meta")).graph


def test_every_block_and_role_is_drawn(graph, tmp_path) -> None:
    draw(graph, tmp_path / "graph.svg")
    text = (tmp_path / "graph.svg").read_text()
    assert "block 0" in text
    assert "block 1" in text
    assert all(node.role in text for node in graph.nodes if node.kind == "weight")


def test_drawing_is_reproducible(graph, tmp_path) -> None:
    for name in ("one.svg", "two.svg"):
        draw(graph, tmp_path / name, block=1)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_missing_block_is_named(graph, tmp_path) -> None:
    with pytest.raises(QsdError, match="no block 7; the blocks of this denoiser are 0 to 1"):
        draw(graph, tmp_path / "graph.svg", block=7)
