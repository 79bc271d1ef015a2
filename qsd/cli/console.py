"""What the verbs share: parsing from typed functions, progress bars with an ETA, and JSON for machines."""

import contextlib
import inspect
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from qsd.cli.flags import FlagsParser
from qsd.support.errors import printable
from qsd.support.progress import Progress


class PlainConsole(Console):
    """A console that shows strings as they are: names of files, layers and prompts are no markup.

    Square brackets stay, and control characters, escape sequences among them, are written out. What shall be
    bold or dim is a :class:`rich.text.Text` or has a style.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by rich for every string that it shows, cells and titles of tables included."""
        return super().render_str(printable(text), **options | {"markup": False, "emoji": False})


_BAR, _TIMES = 16, 25
"""Columns of a progress bar, and of its times and the blanks between its parts."""

console = PlainConsole(highlight=False)
"""Results, on standard output."""

messages = PlainConsole(stderr=True, highlight=False)
"""Progress and remarks, on standard error, so that results can be piped."""


def run_function(
    function: Callable[..., None] | Mapping[str, Callable[..., None]],
    words: Sequence[str],
    *,
    positional: bool = False,
) -> None:
    """Parses a verb's words by the signature and docstring of its function(s) and calls it.

    Args:
        function: one function, or functions by sub-verb.
        words: the command line, verb first.
        positional: required parameters are positional instead of options.
    """
    components: Any = function if callable(function) else dict(function)
    options, name = [_option(word) for word in words[1:]], f"qsd {words[0]}"
    if callable(function) and "config" in inspect.signature(function).parameters:
        # elsewhere --config is a file with values for the options; here the function wants it for itself
        parser = FlagsParser(prog=name)
        parser.add_function_arguments(function)
        function(**parser.parse_args(options).as_dict())
    else:
        auto_cli(components, args=options, prog=name, as_positional=positional, parser_class=FlagsParser)


def _option(word: str) -> str:
    """Lets people type ``--max-bits`` where the parser knows ``--max_bits``."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name.removeprefix("--").replace("-", "_") + equals + value


@contextlib.contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Shows a progress bar with elapsed time and ETA; yields the callback that moves it."""
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=_BAR),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}", style="dim", markup=False),
    )
    with RichProgress(*columns, console=messages) as progress:
        task = progress.add_task(printable(title), total=None, message="")

        def move(done: int, total: int, message: str) -> None:
            room = max(1, messages.width - _BAR - _TIMES - len(f"{title}{done}/{total}"))
            text = printable(message)
            short = text if len(text) <= room else text[: room - 1] + "…"
            progress.update(task, completed=done, total=total, message=short)

        yield move
        finished = progress.tasks[0].total
        if finished is not None:
            progress.update(task, completed=finished)  # stages may end before their most


def print_json(document: Any) -> None:
    """Prints JSON and nothing else to standard output; numbers that are none are null."""
    print(json.dumps(_finite(document), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def command_line() -> str:
    """The command as typed, for the provenance of files."""
    return shlex.join(["qsd", *sys.argv[1:]])
