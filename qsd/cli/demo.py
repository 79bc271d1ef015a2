"""``qsd demo``."""

import dataclasses
import itertools
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsd.cli import fit
from qsd.cli.comparing import LARGER_IS_BETTER
from qsd.cli.console import bar, command_line, console, print_json, run_function
from qsd.cli.demonstration import DemoSettings, run_demo
from qsd.cli.measured import measured_table
from qsd.cli.overwriting import check_replaceable
from qsd.evaluation import EvaluationSettings, headline
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find
from qsd.zoo.registry import RANKERS, evaluation_of


def demo(
    out: str, settings: DemoSettings, on: str | None = None, overwrite: bool = False, json: bool = False
) -> None:
    """Runs the whole road on a labeled miniature: bank, a few labels, ranker, search, verification, export.

    It is `qsd compress` with more comparisons. Writes the exported `pipeline`, its `config.json`,
    `report.html`, `pareto.png`, `grid.png` and `summary.json`, and what it works on (bank, store, ranker,
    fronts) to `work`; prints one table of everything measured. Run again it goes on where it was.

    Args:
        out: folder to write to.
        settings: pipeline, store, evaluation, budgets; without --config the shipped `demo.yaml`.
        on: another labeled miniature in its place, such as `emoji-flux`: its pipeline, store, evaluation and
            ranker, where no flag names others.
        overwrite: replace a demo of other settings; one of the same is run again in its place anyway.
        json: print the summary as JSON instead of the table.
    """
    file = Path(out) / "summary.json"
    wanted = {"settings": json_module.loads(json_module.dumps(dataclasses.asdict(settings)))}
    check_replaceable(file, wanted, lambda: _facts(file), overwrite=overwrite)
    summary = run_demo(settings, out, bar=bar, fit=fit.run, command=command_line())
    if json:
        print_json(summary)
        return
    rows = summary["rows"]
    seeds = ", ".join(map(str, summary["seeds"]))
    title = f"measured on {summary['images']} images with each of the noise seeds {seeds}"
    searched = [row for row in rows if row["kind"] == "searched"]
    console.print(measured_table(title, rows, [row["name"] for row in searched]))
    first = headline(rows[0])
    for row in searched:
        ours, theirs = row[first], row[f"best_rival_{first}"]
        better = ours > theirs if LARGER_IS_BETTER[first] else ours < theirs
        verdict = "beats" if better else "does not beat"
        console.print(
            f"{row['name']}: {first.upper()} {ours:.2f} {verdict} the best uniform or random config that "
            f"fits, {row['best_rival']} with {theirs:.2f}"
        )
    console.print(
        "seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in summary["seconds"].items())
    )
    console.print(
        f"exported {summary['pipeline']}: {summary['bytes']:,} bytes; reloaded, its latents differ by at "
        f"most {summary['max_abs_difference']:g}"
    )
    console.print(f"look at {out}/report.html, pareto.png and grid.png; numbers in {out}/summary.json")


def _facts(file: Path) -> dict[str, Any]:
    try:
        return dict(json_module.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise QsdError(f"{file}: no summary of a demo ({first_line(error)}); name another --out") from error


def _settings_of(name: str) -> list[str]:
    """The flags that make a miniature's demo of the default one's.

    Raises:
        QsdError: no labels of it ship.
    """
    if name not in RANKERS:
        raise QsdError(f"--on {name}: no such labeled miniature; choose one of {', '.join(RANKERS)}")
    words = []
    for key, value in dataclasses.asdict(EvaluationSettings(**evaluation_of(name))).items():
        if key not in ("num_images", "kid_subset_size"):  # those of the store
            words += [f"--settings.evaluation.{key}", json_module.dumps(value)]
    return [
        *("--settings.pipeline", f"checkpoints/{name}", "--settings.store", f"datasets/{name}.h5"),
        *("--settings.ranker", RANKERS[name], *words),
    ]


def _named(words: Sequence[str]) -> str | None:
    """What ``--on`` names on the command line; the last one counts."""
    found = None
    for word, after in itertools.zip_longest(words, words[1:]):
        if word == "--on":
            found = after
        elif word.startswith("--on="):
            found = word.removeprefix("--on=")
    return found


def run(words: Sequence[str]) -> None:
    """Runs the verb.

    Raises:
        QsdError: ``--on`` names no labeled miniature.
    """
    words = list(words)
    name = _named(words)
    if name is not None:
        words[1:1] = _settings_of(name)
    if not any(word.startswith("--config") for word in words):
        words[1:1] = ["--config", str(find("demo.yaml"))]
    run_function(demo, words)
