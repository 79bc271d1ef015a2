"""Finds what ships with qsd (YAML, stores, checkpoints) from a clone and from an installed wheel alike."""

from pathlib import Path

from qsd.support.errors import QsdError

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED_FOLDERS = ("", "lightning_configs", "datasets", "checkpoints")


def shipped_root() -> Path:
    """The folder that holds ``lightning_configs``, ``datasets`` and ``checkpoints``."""
    packaged = _PACKAGE / "shipped"
    return packaged if packaged.is_dir() else _PACKAGE.parent


def find(name: str | Path) -> Path:
    """Resolves a file or folder name.

    An existing path stands for itself; otherwise the name is looked up among the shipped files, with or
    without its folder (``pixart.yaml``, ``datasets/digits-pixart-alpha.h5``).

    Args:
        name: a path, or the name of something shipped.

    Returns:
        An existing path.

    Raises:
        QsdError: there is no such path here and nothing of that name ships with qsd.
    """
    path = Path(name)
    if path.exists():
        return path
    if not path.is_absolute():
        for folder in _SHIPPED_FOLDERS:
            candidate = shipped_root() / folder / path
            if candidate.exists():
                return candidate
    raise QsdError(f"{name}: no such file here, and nothing of that name ships with qsd; check the path")
