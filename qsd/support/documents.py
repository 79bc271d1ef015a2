"""JSON documents: bounded when read, checked against a schema, and carrying a hash of their content."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qsd.support.errors import QsdError
from qsd.support.files import atomic
from qsd.support.hashing import json_hash, verifying

MOST_BYTES = 2**28
MOST_DEPTH = 64
HASH = "hash"
"""The entry of a document that holds the hash of all its other entries."""

_REMEDY = "make it again"


class Schema(BaseModel):
    """What a document must hold: types taken strictly, finite numbers, and no entries but those named."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


SchemaT = TypeVar("SchemaT", bound=BaseModel)


def parse_json(text: bytes | str, source: str | Path, remedy: str = _REMEDY) -> Any:
    """Reads JSON that may come from anybody.

    Args:
        text: at most 256 MiB, in UTF-8.
        source: for messages.
        remedy: for messages: what to do about a damaged file.

    Raises:
        QsdError: it is too large, nested deeper than 64 levels, has a number that is not finite or a key
            twice, or is no JSON.
    """
    if len(text) > MOST_BYTES:
        raise QsdError(
            f"{source}: {len(text)} bytes of JSON, more than the {MOST_BYTES} that are read; {remedy}"
        )
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except RecursionError:
        raise QsdError(f"{source}: nested deeper than {MOST_DEPTH} levels; {remedy}") from None
    except ValueError as error:  # covers JSON and UTF-8 decoding errors
        raise QsdError(f"{source}: not a JSON file (truncated or damaged: {error}); {remedy}") from error
    if _depth(document) > MOST_DEPTH:
        raise QsdError(f"{source}: nested deeper than {MOST_DEPTH} levels; {remedy}")
    return document


def read_bounded(path: str | Path) -> bytes:
    """The content of a file that is not larger than a document may be.

    Raises:
        QsdError: it is larger, or cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise QsdError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(content) > MOST_BYTES:
        raise QsdError(f"{path}: larger than the {MOST_BYTES} bytes that are read; give another file")
    return content


def check_schema(schema: type[SchemaT], document: Any, source: str | Path, remedy: str = _REMEDY) -> SchemaT:
    """The document as the schema has it.

    Raises:
        QsdError: an entry is missing, unknown, of another type or out of range; names the first.
    """
    try:
        return schema.model_validate_json(
            json.dumps(document)
        )  # tuples and dataclasses are lists and objects
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])[:200]
        raise QsdError(f"{source}: entry '{where}': {first['msg'][:160].lower()}; {remedy}") from None


def with_hash(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document and, as its entry ``hash``, the hash of its content."""
    content = {key: value for key, value in document.items() if key != HASH}
    return {**content, HASH: json_hash(content)}


def check_hash(
    document: Mapping[str, Any], source: str | Path, remedy: str = _REMEDY, *, required: bool = True
) -> None:
    """Refuses a document that is not what its writer wrote.

    Args:
        document: with its entry ``hash``.
        source: for messages.
        remedy: for messages.
        required: refuse a document without a hash; else people may have written it by hand.

    Raises:
        QsdError: the hash differs, or there is none.
    """
    noted = document.get(HASH)
    if noted is None and not required:
        return
    if verifying() and noted != with_hash(document)[HASH]:
        raise QsdError(f"{source}: differs from the hash that its writer noted (damaged or edited); {remedy}")


def read_json(
    path: str | Path,
    expected_format: str,
    expected_version: int,
    schema: type[BaseModel] | None = None,
    *,
    hashed: bool = True,
    remedy: str = _REMEDY,
) -> dict[str, Any]:
    """Reads a JSON file of one of this project's kinds.

    Args:
        path: the file.
        expected_format: its entry ``format``.
        expected_version: the largest ``version`` that is read.
        schema: what it must hold.
        hashed: a hash must be there; else people may write such files by hand.
        remedy: for messages.

    Raises:
        QsdError: the file is missing, no JSON, of another kind or version, does not fit the schema, or is not
            what its writer wrote.
    """
    document = parse_json(read_bounded(path), path, remedy)
    found = document.get("format") if isinstance(document, dict) else None
    if found != expected_format:
        kind = repr(found)[:60] if found else "'no qsd format'"
        raise QsdError(f"{path}: holds {kind}, not {expected_format!r}; give such a file")
    version = document.get("version")
    if type(version) is not int or not 1 <= version <= expected_version:
        raise QsdError(
            f"{path}: version {repr(version)[:20]} of {expected_format}, this qsd reads version "
            f"{expected_version}; {remedy} or use the qsd that wrote it"
        )
    if schema is not None:
        check_schema(schema, document, path, remedy)
    check_hash(document, path, remedy, required=hashed)
    return document


def write_json(path: str | Path, document: Mapping[str, Any], *, hashed: bool = True) -> None:
    """Writes a JSON file whole or not at all.

    Args:
        path: destination; missing parent folders are made.
        document: JSON content; NaN and infinities are refused with ValueError.
        hashed: add the hash of the content, for files that are read again.
    """
    content = with_hash(document) if hashed else document
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level:
        depth += 1
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = [value for value in inner if isinstance(value, (dict, list))]
    return depth
