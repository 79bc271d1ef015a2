"""``qsd study``."""

import json as json_module
from collections.abc import Sequence

from rich.table import Table

from qsd.cli.console import console, print_json, run_function
from qsd.explain.study import score_study


def study(key: str, answers: list[str], json: bool = False) -> None:
    """Scores a blind study: which config's images people found nearer to full precision's.

    Intervals are exact for answers that do not depend on each other; many answers of one person do.

    Args:
        key: PAGE.key.json, which `qsd report --study` wrote beside its page.
        answers: files that the page saved, one after another.
        json: print the numbers as JSON.
    """
    found = score_study(key, answers)
    if json:
        rows = [
            vars(one) | {"share": one.share, "interval": one.interval, "p_value": one.p_value}
            for one in found
        ]
        print_json(rows)
        return
    table = Table(
        title=f"nearer to the reference, {len(answers)} raters", caption="95 % intervals, sign test"
    )
    for heading in ("config", "against"):
        table.add_column(heading, overflow="fold")
    for heading in ("won", "lost", "same", "share won", "interval", "p"):
        table.add_column(heading, justify="right")
    for one in found:
        low, high = one.interval
        table.add_row(
            *(one.one, one.other, str(one.won), str(one.lost), str(one.same), f"{one.share:.0%}"),
            *(f"{low:.0%}-{high:.0%}", f"{one.p_value:.2g}"),
        )
    console.print(table)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    files = [word for word in words[1:] if not word.startswith("-")]
    options = [word for word in words[1:] if word.startswith("-")]
    listed = [files[0], json_module.dumps(files[1:])] if files else []
    run_function(study, [words[0], *listed, *options], positional=True)
