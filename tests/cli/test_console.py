"""Names are shown as they are: no markup, no escape sequences."""

import io

import pytest
from rich.table import Table

from qsd.cli import main
from qsd.cli.console import PlainConsole, bar, messages
from qsd.support.errors import printable

NAMES = ["blocks[0].attn", "[/bold]", "[red]x", ":smile:", "a\x1b[31mb", "tab\tand\nline"]


@pytest.mark.parametrize("name", NAMES)
def test_tables_show_names_as_text(name: str) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=80, highlight=False)
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    console.print(name)
    shown = out.getvalue()
    assert "\x1b[31m" not in shown
    assert shown.count(printable(name).split("\n")[0].split("\t")[0]) == 4


def test_progress_shows_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(messages, "_file", out)  # the property would leave what it found as a file of its own
    with bar("[/nothing]") as progress:
        progress(1, 1, "layer[0]\x1b[2J")
    assert "layer[0]\\x1b[2J" in out.getvalue()


def test_errors_show_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", "a\x1b[31m[/b].h5"]) == 2
    assert "a\\x1b[31m[/b].h5: no such store" in capsys.readouterr().err
