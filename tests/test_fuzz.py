"""Five hundred damaged files of all kinds: refused in one line, or read as they were written."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_as_written() -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    assert spec is not None and spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    found = fuzz.run(500, seed=0, verbose=False)
    counts = found["table"].values()
    assert sum(sum(outcomes.values()) for outcomes in counts) >= 480
    assert not [detail for detail in found["details"] if detail[1] in fuzz.BAD]
    assert sum(outcomes.get("refused", 0) for outcomes in counts) > 300
