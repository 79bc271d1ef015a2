"""Imports point one way: a room imports from floors below its own, so data has one road through the house."""

import ast
from collections.abc import Iterator
from pathlib import Path

import qsd

FLOORS = (
    ("support",),
    ("denoisers", "quantizers"),
    ("configs",),
    ("bank",),
    ("runtime",),
    ("store", "search", "export"),
    ("evaluation",),
    ("ranker",),
    ("explain", "labels"),
    ("finetune", "zoo", "api"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(qsd.__file__).parent


def _rooms_used(file: Path) -> Iterator[str]:
    """Rooms that a module imports from, at its top or inside of functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top == "qsd" and rest and rest[0] in FLOOR:
                yield rest[0]


def test_every_room_has_a_floor() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__"} == set(FLOOR)


def test_imports_point_down() -> None:
    upward = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        upward += [
            f"{file.relative_to(PACKAGE)} imports {other}"
            for other in _rooms_used(file)
            if other != room and FLOOR[other] >= FLOOR[room]
        ]
    assert not upward
