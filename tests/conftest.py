"""What every test has in common."""

from pathlib import Path

import pytest

from qsd.support.user_cache import VARIABLE


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test run's own, shared by its tests."""
    folder = tmp_path_factory.getbasetemp() / "qsd-cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder
