"""The written help is what the parsers say, and costs next to nothing."""

import re
import subprocess
import sys

import pytest

from qsd.cli import VERBS
from qsd.cli.help_pages import FOLDER, pages, written

LIGHTNING = ("fit", "validate", "test", "predict")  # names of classes there depend on what else was imported


def test_pages_are_what_the_parsers_say() -> None:
    found = dict(pages())
    assert set(found) == {page.name for page in FOLDER.glob("*.txt")}
    for name, text in found.items():  # `make help` writes them anew
        page = (FOLDER / name).read_text(encoding="utf-8")
        if name.removesuffix(".txt") in LIGHTNING:
            page, text = (re.findall(r"^  (--[\w.+]+)", one, flags=re.M) for one in (page, text))
        assert page == text, name


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page_that_fits_the_terminal(verb: str) -> None:
    text = written([verb, "--help"])
    assert text is not None and text.startswith("usage:")
    if verb not in LIGHTNING:
        assert max(map(len, text.splitlines())) <= 110  # lists of choices do not wrap


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom qsd.cli import main\n"
        "try: main(['label', '--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'lightning', 'rich') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.rstrip().endswith("[]")
