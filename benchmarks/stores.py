"""The stores that ship."""

from pathlib import Path

from qsd.store import Store
from qsd.support.paths import shipped_root


def shipped_stores(label: str = "fid") -> list[Path]:
    """Those that have a label; no real videos ship, so that one of videos has no FID."""
    paths = sorted((shipped_root() / "datasets").glob("*.h5"))
    return [path for path in paths if label in Store.open(path).header.label_names]
