"""The help of every verb, written down: a parser imports what its verb computes with, which takes seconds.

``make help`` writes the pages anew; a test compares them with what the parsers say.
"""

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

FOLDER = Path(__file__).parent / "help"
_WIDTH = "80"


def written(words: Sequence[str]) -> str | None:
    """The page of a verb, or of a verb and its sub-verb, if the words are that and ``--help``."""
    if len(words) not in (2, 3) or words[-1] not in ("-h", "--help"):
        return None
    page = FOLDER / f"{'-'.join(words[:-1])}.txt"
    return page.read_text(encoding="utf-8") if page.is_file() else None


def said(words: Sequence[str]) -> str:
    """What the parser of a verb says, at a width of 80 columns."""
    from qsd.cli import VERBS

    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": _WIDTH}),
        mock.patch.object(sys, "argv", ["qsd"]),  # LightningCLI calls its program by that name
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(f"qsd.cli.{VERBS[words[0]].module}").run([*words, "--help"])
    # which subclasses are known depends on what else the process has imported
    return re.sub(r",\s+known\s+subclasses:[^)]*\)", ")", printed.getvalue().rstrip()) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """(file name, text) of every page."""
    from qsd.cli import VERBS

    for verb in VERBS:
        text = said([verb])
        yield f"{verb}.txt", text
        sub_verbs = re.search(r"\{([a-z_,]+)\} \.\.\.", text)
        for sub_verb in sub_verbs[1].split(",") if sub_verbs else ():
            yield f"{verb}-{sub_verb}.txt", said([verb, sub_verb])


def write() -> None:
    """Writes all pages."""
    FOLDER.mkdir(exist_ok=True)
    found = dict(pages())
    for stale in {page.name for page in FOLDER.glob("*.txt")} - set(found):
        (FOLDER / stale).unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
