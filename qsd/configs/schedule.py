"""Schedules: other activation options in other sampling steps, as documents and in memory."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from qsd.configs.document import layers_from_json, layers_to_json
from qsd.denoisers.identity import check_same_denoiser
from qsd.support.documents import read_json, write_json
from qsd.support.errors import QsdError

SCHEDULE_FORMAT = "qsd-schedule"
SCHEDULE_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Activation options by range of sampling steps. G groups, L layers.

    Attributes:
        ranges: G ranges [start, stop) of steps, in order, that cover every step once.
        activations: int8 [G, L], options of each.

    Raises:
        QsdError: steps have no options, or those of two ranges.
    """

    ranges: tuple[tuple[int, int], ...]
    activations: np.ndarray

    def __post_init__(self) -> None:
        check_ranges(self.ranges, "schedule")

    @property
    def num_steps(self) -> int:
        """Steps that the pipeline has to take."""
        return self.ranges[-1][1]

    def at(self, step: int) -> np.ndarray:
        """Options in a step, int8 [L]."""
        return self.activations[next(i for i, (_, stop) in enumerate(self.ranges) if step < stop)]

    def shares(self) -> np.ndarray:
        """Share of the steps that each group has, float64 [G]."""
        return np.array([stop - start for start, stop in self.ranges]) / self.num_steps

    @classmethod
    def split(cls, num_steps: int, activations: np.ndarray) -> Self:
        """Even ranges for G activation vectors int8 [G, L].

        Raises:
            QsdError: there are fewer steps than groups.
        """
        return cls(even_ranges(num_steps, len(activations)), activations)


def even_ranges(num_steps: int, groups: int) -> tuple[tuple[int, int], ...]:
    """Divides steps into ranges whose lengths differ by one at most.

    Raises:
        QsdError: there are fewer steps than groups.
    """
    if not 1 <= groups <= num_steps:
        raise QsdError(f"{groups} groups of {num_steps} steps: take from 1 to {num_steps} groups")
    ends = np.linspace(0, num_steps, groups + 1).round().astype(int).tolist()
    return tuple(itertools.pairwise(ends))


def check_ranges(ranges: Sequence[tuple[int, int]], source: str | Path) -> None:
    """Refuses ranges that do not cover steps from 0 on, once each, in order.

    Raises:
        QsdError: there is a gap, an overlap, or an empty range.
    """
    if not ranges:
        raise QsdError(f"{source}: has no ranges of steps; give at least one, such as [0, 20]")
    reached = 0
    for start, stop in ranges:
        if stop <= start:
            raise QsdError(f"{source}: range [{start}, {stop}] has no step; let it end after it begins")
        if start > reached:
            raise QsdError(f"{source}: steps {reached} to {start - 1} have no options; add a range for them")
        if start < reached:
            raise QsdError(
                f"{source}: steps {start} to {min(reached, stop) - 1} are in two ranges; let each range "
                "begin where the one before it ends"
            )
        reached = stop


def save_schedule(
    path: str | Path,
    schedule: Schedule,
    layer_names: Sequence[str],
    option_names: Sequence[str],
    denoiser: Mapping[str, Any],
    **extra: Any,
) -> None:
    """Writes a schedule as JSON, options by layer name.

    Args:
        path: file.
        schedule: what to write.
        layer_names: L names, bank order.
        option_names: texts of the activation options.
        denoiser: identity of the denoiser.
        **extra: further entries.
    """
    groups = [
        {"steps": list(steps), "activations": layers_to_json(options, layer_names, option_names)}
        for steps, options in zip(schedule.ranges, schedule.activations, strict=True)
    ]
    document = {"format": SCHEDULE_FORMAT, "version": SCHEDULE_VERSION, "denoiser": dict(denoiser)}
    write_json(path, document | extra | {"groups": groups}, hashed=False)


def load_schedule(
    path: str | Path,
    layer_names: Sequence[str],
    option_names: Sequence[str],
    denoiser: Mapping[str, Any] | None = None,
) -> Schedule:
    """Reads what :func:`save_schedule` wrote.

    Raises:
        QsdError: no such file, another denoiser's, gaps or overlaps of steps, or options or layers that are
            not there.
    """
    document = read_json(path, SCHEDULE_FORMAT, SCHEDULE_VERSION, hashed=False)
    if denoiser is not None:
        check_same_denoiser(dict(denoiser), document.get("denoiser") or {}, path)
    groups = document.get("groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise QsdError(f"{path}: has no list of 'groups'; write it with qsd or as its documentation shows")
    ranges = [_range(group.get("steps"), path) for group in groups]
    check_ranges(ranges, path)
    options = [
        layers_from_json(group.get("activations"), layer_names, option_names, path) for group in groups
    ]
    return Schedule(tuple(ranges), np.stack(options))


def _range(steps: Any, source: str | Path) -> tuple[int, int]:
    if isinstance(steps, list) and len(steps) == 2 and all(type(step) is int for step in steps):
        return steps[0], steps[1]
    raise QsdError(f"{source}: 'steps' is {steps!r}; write [first step, step after the last], such as [0, 5]")
