"""Prompts and classes from files: plain text, CSV, JSON, COCO captions, parquet."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find

_PROMPT_COLUMNS, _CLASS_COLUMNS = ("prompt", "caption", "text"), ("class", "label")
Columns = str | tuple[str, ...]
"""The name of a column, or the usual names of one."""
_MOST_DIGITS = 9  # of a class
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_texts(name: str, count: int, what: str, column: str | None = None) -> list[str]:
    """The first texts of a file.

    Args:
        name: path, or name of something shipped. ``.csv`` and ``.tsv`` have a header; ``.json`` holds a list
            of texts or of objects, or COCO captions (the first caption of each image, in file order);
            ``.jsonl`` an object or a text a line; ``.parquet`` needs pyarrow; every other file holds a text a
            line. UTF-8, or UTF-16 with a byte-order mark.
        count: how many are needed.
        what: what they are, for messages.
        column: of a file with several; none takes the only one, or the only one with a usual name (of
            classes: class or label; of all else: prompt, caption or text).

    Raises:
        QsdError: the file is missing, damaged, in another encoding, has no such column, fewer texts than
            ``count``, or an empty one among the first.
    """
    path = find(name)
    read = _READERS.get(path.suffix.lower(), _lines)
    usual = _CLASS_COLUMNS if what == "classes" else _PROMPT_COLUMNS
    try:
        texts = read(path, usual if column is None else column)
    except OSError as error:
        raise QsdError(f"{name}: cannot be read ({error.strerror or first_line(error)})") from error
    if len(texts) < count:
        raise QsdError(f"{name}: {len(texts)} {what} for {count} images; lower num_images or add {what}")
    for position, text in enumerate(texts[:count], start=1):
        if not text.strip():
            raise QsdError(f"{name}: entry {position} of the {what} is blank; remove it or fill it in")
    return texts[:count]


def read_classes(name: str, count: int, column: str | None = None) -> list[int]:
    """The first class indices of a file; arguments and errors as :func:`read_texts`.

    Raises:
        QsdError: also if one is no number from 0 on.
    """
    texts = read_texts(name, count, "classes", column)
    for position, text in enumerate(texts, start=1):
        digits = text.strip(" \t")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
            raise QsdError(f"{name}: entry {position}, {digits[:40]!r}, is no class; give numbers from 0")
    return [int(text) for text in texts]


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    marks = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if content.startswith(mark))
    encoding = next(marks, "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise QsdError(
            f"{path}: line {line} is not {encoding} ({error.reason}); save the file as UTF-8, from Latin-1 "
            "for example by `iconv -f latin1 -t utf8`"
        ) from error
    if "\0" in text:
        raise QsdError(f"{path}: holds NUL characters, as UTF-16 without its mark does; save it as UTF-8")
    return text


def _lines(path: Path, column: Columns) -> list[str]:
    """The lines; characters that only Unicode takes for line ends stay inside of them."""
    if isinstance(column, str):
        raise QsdError(
            f"{path}: a file of plain lines has no column {column!r}; give CSV or JSON, or no column"
        )
    lines = _decoded(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _table(path: Path, column: Columns) -> list[str]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        rows = list(csv.DictReader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise QsdError(f"{path}: damaged table ({first_line(error)}); save it again") from error
    for position, row in enumerate(rows, start=1):
        if None in row:
            raise QsdError(
                f"{path}: entry {position} has more fields than the table has columns; put texts with "
                f"{'tabs' if delimiter == chr(9) else 'commas'} in quotes"
            )
    return _of_column(path, rows, column)


def _json(path: Path, column: Columns) -> list[str]:
    document = _parsed(path, _decoded(path))
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        first: dict[Any, Any] = {}
        for row in document["annotations"]:
            if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
                raise QsdError(f"{path}: an annotation without a caption; give COCO's captions_*.json")
            image = row.get("image_id")
            if not isinstance(image, int | str | None):
                raise QsdError(f"{path}: an image_id that is no number; give COCO's captions_*.json")
            first.setdefault(image, row["caption"].strip())
        return list(first.values())
    if not isinstance(document, list):
        raise QsdError(f"{path}: neither a list nor COCO captions; give a list of texts or of objects")
    return _of_rows(path, document, column)


def _json_lines(path: Path, column: Columns) -> list[str]:
    lines = [line for line in _decoded(path).split("\n") if line.strip()]
    return _of_rows(path, [_parsed(path, line) for line in lines], column)


def _parquet(path: Path, column: Columns) -> list[str]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise QsdError(f"{path}: parquet needs pyarrow; `pip install pyarrow`, or give CSV") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except arrow.ArrowException as error:
        raise QsdError(f"{path}: damaged parquet file ({first_line(error)}); save it again") from error
    return _of_column(path, rows, column)


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QsdError(f"{path}: not JSON ({first_line(error)}); save it again") from error


def _of_rows(path: Path, rows: list[Any], column: Columns) -> list[str]:
    if rows and all(isinstance(row, dict) for row in rows):
        return _of_column(path, rows, column)
    return [_text(path, row, position) for position, row in enumerate(rows, start=1)]


def _of_column(path: Path, rows: Sequence[dict[str, Any]], column: Columns) -> list[str]:
    names = list(dict.fromkeys(str(key) for row in rows for key in row))
    if isinstance(column, tuple):
        usual = [name for name in names if name.lower() in column]
        candidates = names if len(names) == 1 else usual
        column = candidates[0] if len(candidates) == 1 else ""
    if column not in names:
        shown = ", ".join(names[:8]) or "none"
        raise QsdError(f"{path}: which column? it has {shown}; name one as prompts_column or classes_column")
    return [_text(path, row.get(column), position) for position, row in enumerate(rows, start=1)]


def _text(path: Path, value: Any, position: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise QsdError(f"{path}: entry {position} is {str(value)[:40]!r}, not a text; fill it in or remove it")


_READERS: dict[str, Callable[[Path, Columns], list[str]]] = {
    ".csv": _table,
    ".tsv": _table,
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
