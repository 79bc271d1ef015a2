"""Which software made a file."""

from importlib.metadata import version
from typing import Any

_PACKAGES = (
    "qsd",
    "torch",
    "diffusers",
    "transformers",
    "torchmetrics",
    "lightning",
    "torch_geometric",
    "numpy",
)


def provenance(command: str | None = None, **facts: Any) -> dict[str, Any]:
    """What a store, bank, ranker, config or export says about its own making.

    Args:
        command: the command line, where there was one.
        facts: seeds and whatever else matters.
    """
    record: dict[str, Any] = {"versions": {name: version(name) for name in _PACKAGES}, **facts}
    if command is not None:
        record["command"] = command
    return record
