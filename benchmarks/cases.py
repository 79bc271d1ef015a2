"""Runs many cases in as many pieces as it takes: rows lie in a file, and the next run goes on."""

import argparse
import dataclasses
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import logging


def run_cases(
    doc: str,
    cases: Mapping[str, Any],
    run: Callable[[Any, Path], Any],
    row_type: Any,
    file: Path,
    line: Callable[[Any], str],
    is_done: Callable[[Any], bool] = lambda row: True,
) -> tuple[list[Any], Path | None]:
    """Runs the cases that the command line asks for.

    Args:
        doc: of the benchmark, whose first line ``--help`` shows.
        cases: by name.
        run: makes a row of a case, with an empty folder to work in.
        row_type: dataclass of a row.
        file: where rows are kept.
        line: what is printed of a row.
        is_done: whether a row that is kept need not be made again.

    Returns:
        All rows, in the order of their cases, and the page to write, if one is named.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only cases whose names contain one of these")
    parser.add_argument("--again", action="store_true", help="run what earlier runs have results of, too")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so long")
    parser.add_argument("--rows", type=Path, default=file, help="results of all runs")
    parser.add_argument("--out", type=Path, help="markdown file to write into")
    wanted: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    known: dict[str, Any] = {}
    if wanted.rows.is_file():
        kept = [row_type(**fields) for fields in json.loads(wanted.rows.read_text())]
        known = {row.name: row for row in kept}
    start = time.perf_counter()
    for name, case in cases.items():
        named = any(part in name for part in wanted.names)
        is_wanted = named if wanted.names else wanted.again or name not in known or not is_done(known[name])
        if not is_wanted or time.perf_counter() - start > wanted.seconds:
            continue
        with tempfile.TemporaryDirectory() as folder:
            known[name] = run(case, Path(folder))
        rows = [dataclasses.asdict(known[name]) for name in cases if name in known]
        wanted.rows.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(line(known[name]), flush=True)
    return [known[name] for name in cases if name in known], wanted.out
