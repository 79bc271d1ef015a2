"""``qsd study``."""

import json as json_module
from collections.abc import Sequence

from qsd.cli.console import console, print_json, run_function
from qsd.cli.tables import number_table
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
    people = "1 person" if len(answers) == 1 else f"{len(answers)} people"
    table = number_table(
        f"nearer to the reference, {people}",
        ("config", "won", "lost", "same", "share won", "95 % interval", "p"),
        caption="p: sign test",
    )
    for one in found:
        low, high = one.interval
        decided = one.won + one.lost
        table.add_row(
            *(f"{one.one} against {one.other}", str(one.won), str(one.lost), str(one.same)),
            *(f"{one.share:.0%}" if decided else "", f"{low:.0%} to {high:.0%}", f"{one.p_value:.2g}"),
        )
    console.print(table)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    files = [word for word in words[1:] if not word.startswith("-")]
    options = [word for word in words[1:] if word.startswith("-")]
    listed = [files[0], json_module.dumps(files[1:])] if files else []
    run_function(study, [words[0], *listed, *options], positional=True)
