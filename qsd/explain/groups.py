"""Groups of layers: by role, block and stage."""

from collections.abc import Sequence

import numpy as np

from qsd.denoisers.layers import WeightLayer

KINDS = ("role", "block", "stage")
OUTSIDE = "outside"
"""The block of layers that belong to none."""


def groups_of(layers: Sequence[WeightLayer], kind: str) -> dict[str, np.ndarray]:
    """Positions of layers by group, in the order in which blocks and stages run; roles as they first appear.

    Args:
        layers: in bank order.
        kind: one of :data:`KINDS`.
    """
    names = [_name(layer, kind) for layer in layers]
    order = list(dict.fromkeys(names))
    if kind != "role":
        order.sort(key=lambda name: -1 if name == OUTSIDE else int(name))
    return {name: np.flatnonzero([one == name for one in names]) for name in order}


def membership(layers: Sequence[WeightLayer], kind: str) -> tuple[list[str], np.ndarray]:
    """Names of groups, and which layers are in which, bool [groups, L]."""
    groups = groups_of(layers, kind)
    inside = np.zeros((len(groups), len(layers)), dtype=bool)
    for row, members in enumerate(groups.values()):
        inside[row, members] = True
    return list(groups), inside


def _name(layer: WeightLayer, kind: str) -> str:
    if kind == "role":
        return layer.role
    if kind == "stage":
        return str(layer.stage)
    return OUTSIDE if layer.block < 0 else str(layer.block)
