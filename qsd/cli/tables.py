"""Tables that fit a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

_NARROW = 9
_TERMINAL = 80
_SHORT = {"agreement": "agree", "latent_mse": "latent mse"}


def number_table(title: str, headings: Sequence[str], caption: str | None = None) -> Table:
    """An empty table of named rows of numbers that fits 80 columns.

    Numbers and short names stay on one line; a heading has several if it is wide, and a name too long for the
    terminal goes on below.

    Args:
        title: over the table.
        headings: of the names, then of the numbers.
        caption: under the table.
    """
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.min_width = min(_TERMINAL, max(len(title), len(caption or "")))
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        lines = textwrap.fill(_SHORT.get(heading, heading), _NARROW, break_long_words=False)
        table.add_column(lines, justify="right", no_wrap=True)
    return table
