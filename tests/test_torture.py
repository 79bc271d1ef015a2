"""Kills, a full disk, permissions and damage, a few of each: nothing is lost."""

import importlib.util
from pathlib import Path


def test_nothing_is_lost() -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "torture.py"
    spec = importlib.util.spec_from_file_location("torture", path)
    assert spec is not None and spec.loader is not None
    torture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(torture)
    found = torture.run(12, seed=0)
    assert not {case: dict(counts) for case, counts in found.items() if torture.is_loss(counts)}
    assert all(found[case]["kills"] >= 12 for case in ("label, 1 writer", "label, 3 writers", "probe"))
    assert found["damaged shard"]["refused"] > 0
    assert found["disk full"]["refused"] > 0
