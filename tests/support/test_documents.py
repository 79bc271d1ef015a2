"""JSON of strangers: bounded, strict, hashed; every mistake is one line that names the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsd.support.documents import (
    MOST_DEPTH,
    Schema,
    check_schema,
    parse_json,
    read_json,
    with_hash,
    write_json,
)
from qsd.support.errors import QsdError
from qsd.support.hashing import json_hash, verification


class Point(Schema):
    format: str
    version: int
    x: float
    tags: list[str]
    hash: str | None = None


GOOD: dict[str, Any] = {"format": "point", "version": 1, "x": 0.5, "tags": ["a"]}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_json_holds_comes_back(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), "x.json") == value
    assert json_hash(value) == json_hash(json.loads(json.dumps(value, indent=3)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a JSON file"),
        (b'{"a": 1', "not a JSON file"),
        (b"\xff\xfe{}", "not a JSON file"),
        (b"[NaN]", "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b"[1e999]", "1e999 is too large a number"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 64"),
        (b"1" * 5000, "not a JSON file"),
    ],
)
def test_what_is_no_plain_json_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(QsdError, match=message) as error:
        parse_json(text, "x.json", "write it anew")
    assert str(error.value).startswith("x.json: ")
    assert str(error.value).endswith("write it anew")
    assert "\n" not in str(error.value)


def test_the_deepest_that_is_read() -> None:
    parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH, "x.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "0.5"}, "entry 'x': input should be a valid number"),
        ({"tags": "a"}, "entry 'tags'"),
        ({"tags": ["a", 1]}, "entry 'tags.1'"),
        ({"more": 1}, "entry 'more': extra inputs are not permitted"),
        ({"version": True}, "entry 'version'"),
    ],
)
def test_schemas_are_strict(change: dict[str, Any], message: str) -> None:
    check_schema(Point, GOOD, "x.json")
    with pytest.raises(QsdError, match=message):
        check_schema(Point, GOOD | change, "x.json")


def test_a_changed_value_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, GOOD)
    assert read_json(path, "point", 1, Point) == with_hash(GOOD)
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(QsdError, match="differs from the hash that its writer noted"):
        read_json(path, "point", 1, Point)
    with verification(False):
        assert read_json(path, "point", 1, Point)["x"] == 0.6
    path.write_text(json.dumps(GOOD))
    with pytest.raises(QsdError, match="differs from the hash"):
        read_json(path, "point", 1, Point)
    assert read_json(path, "point", 1, Point, hashed=False) == GOOD


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1], "no qsd format"),
        ({"format": "line"}, "holds 'line', not 'point'"),
        ({"format": "point", "version": 2}, "version 2 of point, this qsd reads version 1"),
        ({"format": "point", "version": "1"}, "version '1' of point"),
    ],
)
def test_other_documents_are_named(tmp_path: Path, document: Any, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    with pytest.raises(QsdError, match=message):
        read_json(path, "point", 1, Point)
    with pytest.raises(QsdError, match="cannot be read"):
        read_json(tmp_path / "none.json", "point", 1)
