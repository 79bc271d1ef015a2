"""Prompts and classes are read rightly or refused in one line that names the file."""

import json
from pathlib import Path

import pytest

from qsd.evaluation.texts import read_classes, read_texts
from qsd.support.errors import QsdError


def write(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", "a cat\na dog\n"),
        ("windows.txt", "a cat\r\na dog\r\n\r\n"),
        ("mark.txt", b"\xef\xbb\xbfa cat\na dog"),
        ("utf16.txt", "a cat\na dog\n".encode("utf-16")),
        ("one.csv", "caption\na cat\na dog\n"),
        ("several.csv", 'id,prompt\n1,a cat\n2,"a dog"\n'),
        ("tabs.tsv", "id\tcaption\n1\ta cat\n2\ta dog\n"),
        ("list.json", '["a cat", "a dog"]'),
        ("objects.json", '[{"text": "a cat", "id": 1}, {"text": "a dog", "id": 2}]'),
        ("lines.jsonl", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n'),
    ],
)
def test_files_of_many_kinds(tmp_path: Path, name: str, content: bytes | str) -> None:
    assert read_texts(write(tmp_path, name, content), 2, "prompts") == ["a cat", "a dog"]


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_what_only_unicode_takes_for_a_line_end_stays_inside(tmp_path: Path, inside: str) -> None:
    file = write(tmp_path, "p.txt", f"one{inside}prompt\nanother\n")
    assert read_texts(file, 2, "prompts") == [f"one{inside}prompt", "another"]


def test_the_first_caption_of_each_coco_image(tmp_path: Path) -> None:
    rows = [(7, " a cat\n"), (7, "the cat"), (3, "a dog")]
    annotations = [{"image_id": image, "caption": caption} for image, caption in rows]
    file = write(tmp_path, "captions.json", json.dumps({"images": [], "annotations": annotations}))
    assert read_texts(file, 2, "prompts") == ["a cat", "a dog"]


def test_one_table_holds_prompts_and_classes(tmp_path: Path) -> None:
    file = write(tmp_path, "t.csv", "prompt,class\na black cat,3\na white dog,5\n")
    assert read_texts(file, 2, "prompts") == ["a black cat", "a white dog"]
    assert read_classes(file, 2) == [3, 5]


def test_a_column_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, "t.csv", "prompt,short\na black cat,cat\na white dog,dog\n")
    assert read_texts(file, 2, "prompts", "short") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", "caf\xe9\nb\n".encode("latin-1"), r"latin\.txt: line 1 is not utf-8 .*iconv -f latin1"),
        ("nul.txt", "ab\ncd".encode("utf-16-le"), r"nul\.txt: holds NUL characters"),
        ("blank.txt", "a\n\nb\n", r"blank\.txt: entry 2 of the prompts is blank"),
        ("few.txt", "a\n", r"few\.txt: 1 prompts for 2 images; lower num_images or add prompts"),
        ("many.csv", "a,b\n1,2\n3,4\n", r"many\.csv: which column\? it has a, b; name one"),
        ("broken.json", "[1, ", r"broken\.json: not JSON"),
        ("deep.json", "[" * 100_000, r"deep\.json: not JSON"),
        ("other.json", '{"a": 1}', r"other\.json: neither a list nor COCO captions"),
        (
            "listed.json",
            '{"annotations": [{"image_id": [1], "caption": "a"}]}',
            r"listed\.json: an image_id that is no number; give COCO's",
        ),
        (
            "null.json",
            '["a", null]',
            r"null\.json: entry 2 is 'None', not a text",
        ),
        ("x.parquet", "", r"x\.parquet: (parquet needs pyarrow|damaged parquet)"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(QsdError, match=message) as refused:
        read_texts(write(tmp_path, name, content), 2, "prompts")
    assert "\n" not in str(refused.value)


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="parquet is read with pyarrow, which is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"caption": ["a\u2028b", "c", "d"], "label": [3, 1, 2]})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert read_texts(str(tmp_path / "p.parquet"), 2, "prompts", "caption") == ["a\u2028b", "c"]
    assert read_classes(str(tmp_path / "p.parquet"), 3, "label") == [3, 1, 2]
    parquet.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(QsdError, match="0 prompts for 2 images"):
        read_texts(str(tmp_path / "empty.parquet"), 2, "prompts", "caption")
    (tmp_path / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-9])
    with pytest.raises(QsdError, match=r"p\.parquet: damaged parquet file"):
        read_texts(str(tmp_path / "p.parquet"), 2, "prompts", "caption")


def test_classes(tmp_path: Path) -> None:
    assert read_classes(write(tmp_path, "c.txt", "3\n 12 \n\n"), 2) == [3, 12]
    for content, message in [
        ("3\n\n4\n", "entry 2 of the classes is blank"),
        ("3\ncat\n", "entry 2, 'cat', is no class"),
        ("3\n4\x1d\n", "entry 2, .* is no class"),  # white space to a text, none to a number
        ("3\n-1\n", "entry 2, '-1', is no class"),
        ("3\n", "1 classes for 2 images; lower num_images or add classes"),
    ]:
        with pytest.raises(QsdError, match=message):
            read_classes(write(tmp_path, "c.txt", content), 2)


@pytest.mark.parametrize("text", ["9" * 5000, "99999999999999999999"])
def test_numbers_that_no_class_has(tmp_path: Path, text: str) -> None:
    with pytest.raises(QsdError, match=r"c\.txt: entry 2, .* is no class; give numbers from 0"):
        read_classes(write(tmp_path, "c.txt", f"1\n{text}\n"), 2)


def test_commas_in_texts_without_quotes_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path, "p.csv", 'prompt\n"a red car, parked"\na dog, running\n')
    with pytest.raises(QsdError, match=r"p\.csv: entry 2 has more fields .* put texts with commas in quotes"):
        read_texts(table, 2, "prompts")
