"""Boolean options are flags: ``--json``, and ``--no-debiased`` where the default is true.

Help shows what can be typed. ``--json=true`` and ``--json false`` are understood as well, and settings files
say ``json: true``.
"""

import contextlib
import re
import sys
from argparse import Action
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from qsd.support.errors import printable

_LONGEST = 400
_VALUES = ("true", "false", "null")
_KEY = re.compile(r"Parser key \"([^\"]+)\"")
_OPTIONAL = re.compile(r"Does not validate against .*?restriction v(>=?)(\d+).*Given value: (\S+)")
_RESTRICTION = re.compile(r"Not of type \w+: (\S+) does not conform to restriction v(>=?)(\d+)")


class FlagsParser(ArgumentParser):
    """A parser whose boolean options take no value, and which says in one line what is wrong."""

    _files: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parses words, flags among them; see jsonargparse."""
        self._files = _config_files(args or ())
        return super().parse_args(None if args is None else self._valued(args), *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Says in one line what is wrong, where it may stand, and where to read on; exit code 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        typed = not self._files or message.startswith("unrecognized")
        files = "" if typed else f" (given on the command line or in {', '.join(self._files)})"
        verb = parser.prog.replace(" [options]", "")
        text = _KEY.sub(r"\1", " ".join(printable(message).split()))
        text = _OPTIONAL.sub(r"\3 is not \1 \2", text)
        text = _RESTRICTION.sub(r"\1 is not \2 \3", text)[:_LONGEST]
        sys.stderr.write(f"qsd: {text.rstrip('.')}{files}; `{verb} --help` lists what there is\n")
        self.exit(2)

    def format_help(self, *args: Any, **options: Any) -> str:
        """The help, in which flags are shown as they are typed."""
        with self._shown_as_flags():
            return super().format_help(*args, **options)

    def format_usage(self, *args: Any, **options: Any) -> str:
        """The usage, likewise."""
        with self._shown_as_flags():
            return super().format_usage(*args, **options)

    def _valued(self, words: Sequence[str]) -> list[str]:
        """Gives flags the values that jsonargparse expects of boolean options."""
        flags = {name for action in self._actions if _is_boolean(action) for name in action.option_strings}
        valued, rest = [], list(words)
        for word, after in zip(rest, [*rest[1:], ""], strict=True):
            if word in flags and after not in _VALUES:
                word = f"{word}=true"
            elif word.startswith(("--no_", "--no-")) and f"--{word[5:]}" in flags:
                word = f"--{word[5:]}=false"
            valued.append(word)
        return valued

    @contextlib.contextmanager
    def _shown_as_flags(self) -> Iterator[None]:
        plain = [
            action for action in self._actions if _is_boolean(action) and isinstance(action.default, bool)
        ]
        kept = [(action.nargs, action.option_strings) for action in plain]
        for action in plain:
            action.nargs = 0
            if action.default:
                action.option_strings = [f"--no_{name.removeprefix('--')}" for name in action.option_strings]
        try:
            yield
        finally:
            for action, (nargs, names) in zip(plain, kept, strict=True):
                action.nargs, action.option_strings = nargs, names


def _config_files(words: Sequence[str]) -> list[str]:
    """What stands behind every ``--config``."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return [
        word.partition("=")[2] or after for word, after in pairs if word.split("=")[0] in ("--config", "-c")
    ]


def _is_boolean(action: Action) -> bool:
    return action.metavar in ("{true,false}", "{true,false,null}")
