"""What a search may choose: one option for each unit, a unit being layers that must take the same option."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from qsd.bank.sizes import config_bytes, largest_bytes, smallest_bytes, uniform_configs
from qsd.quantizers.options import Option
from qsd.search.pins import matching, permitted
from qsd.support.errors import QsdError


@dataclass(frozen=True)
class Space:
    """L layers in U units, O options. Everything that searches works on units; `expand` gives configs.

    Attributes:
        options: O options.
        num_bytes: int64 [U, O], exact bytes; -1 where a unit cannot (or may not) take an option.
        num_weights: int64 [U].
        unit_of_layer: int64 [L].
        layer_names: L names.
    """

    options: tuple[Option, ...]
    num_bytes: np.ndarray
    num_weights: np.ndarray
    unit_of_layer: np.ndarray
    layer_names: tuple[str, ...]

    @classmethod
    def make(
        cls,
        num_bytes: np.ndarray,
        num_weights: np.ndarray,
        options: Sequence[Option],
        *,
        layer_names: Sequence[str] | None = None,
        groups: Sequence[Sequence[int]] = (),
    ) -> Self:
        """From a bank's tables.

        Args:
            num_bytes: int64 [L, O], -1 where a layer cannot take an option.
            num_weights: int64 [L].
            options: O options.
            layer_names: L names.
            groups: layers that must take the same option, by position; others stand alone.

        Raises:
            QsdError: A unit is left without an option.
        """
        num_layers = len(num_bytes)
        names = tuple(layer_names or (f"layer{index}" for index in range(num_layers)))
        first = np.arange(num_layers)
        for group in groups:
            first[list(group)] = min(group)
        leaders, unit_of_layer = np.unique(first, return_inverse=True)
        sizes = np.zeros((len(leaders), len(options)), dtype=np.int64)
        np.add.at(sizes, unit_of_layer, np.maximum(num_bytes, 0))
        lacking = np.zeros_like(sizes)
        np.add.at(lacking, unit_of_layer, (num_bytes < 0).astype(np.int64))
        weights = np.bincount(unit_of_layer, num_weights).astype(np.int64)
        space = cls(
            tuple(options), np.where(lacking > 0, -1, sizes), weights, unit_of_layer.reshape(-1), names
        )
        space._check("no option fits all its layers; build a bank with more options")
        return space

    @property
    def available(self) -> np.ndarray:
        """Whether a unit may take an option, bool [U, O]."""
        return self.num_bytes >= 0

    @property
    def smallest(self) -> int:
        """Bytes of the smallest config."""
        return smallest_bytes(self.num_bytes)

    @property
    def largest(self) -> int:
        """Bytes of the largest config."""
        return largest_bytes(self.num_bytes)

    def bytes_of(self, units: np.ndarray) -> np.ndarray:
        """Exact bytes of int8 [n, U] choices, int64 [n]."""
        return config_bytes(units, self.num_bytes)

    def bits_of(self, total_bytes: np.ndarray | int) -> np.ndarray:
        """Average bits per weight of so many bytes, float64."""
        return 8.0 * np.asarray(total_bytes, dtype=np.float64) / float(self.num_weights.sum())

    def expand(self, units: np.ndarray) -> np.ndarray:
        """Configs int8 [..., L] of choices int8 [..., U]."""
        return units[..., self.unit_of_layer]

    def by_unit(self, table: np.ndarray) -> np.ndarray:
        """Values by layer float [L, O], added up over the layers of each unit, float64 [U, O].

        Entries that are not available become -infinity, so that nothing that maximises chooses them.
        """
        summed = np.zeros(self.num_bytes.shape)
        np.add.at(summed, self.unit_of_layer, np.nan_to_num(table, nan=0.0, posinf=0.0, neginf=0.0))
        return np.where(self.available, summed, -np.inf)

    def uniform(self) -> np.ndarray:
        """Choices that use one option wherever it is available (:func:`qsd.bank.sizes.uniform_configs`).

        Returns:
            int8 [O, U].
        """
        return uniform_configs(self.num_bytes, self.num_weights)

    def restricted(self, pins: Mapping[str, str], floors: Mapping[str, str]) -> Self:
        """The space with some layers pinned to an option and some at or above an option's bits.

        Args:
            pins: Pattern of layer names (`*` and `?`, or the exact name) -> option.
            floors: Pattern -> option; the layers take this option or one of more bits.

        Raises:
            QsdError: A pattern matches no layer, an option is unknown, or nothing is left for a layer.
        """
        allowed = permitted(
            self.available,
            [str(option) for option in self.options],
            np.array([option.traits.bits for option in self.options]),
            pins,
            floors,
            units=lambda pattern, rule: np.unique(
                self.unit_of_layer[matching(self.layer_names, pattern, rule)]
            ),
            name=self._name,
        )
        return replace(self, num_bytes=np.where(allowed, self.num_bytes, -1))

    def _check(self, remedy: str) -> None:
        empty = np.flatnonzero(~self.available.any(axis=1))
        if len(empty):
            raise QsdError(f"{self._name(int(empty[0]))}: {remedy}")

    def _name(self, unit: int) -> str:
        layers = np.flatnonzero(self.unit_of_layer == unit)
        more = f" (and {len(layers) - 1} coupled layers)" if len(layers) > 1 else ""
        return f"layer {self.layer_names[layers[0]]}{more}"
