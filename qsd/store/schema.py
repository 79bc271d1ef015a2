"""What the records of a store share: denoiser, graph, option table, labels, conditions, responses."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option, options_hash
from qsd.support.documents import Schema

FULL_ACTIVATIONS = ("16",)
"""The activation options of a store whose layers all read 16-bit activations."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A measured number: its name, whether larger is better, and its meaning in a few words."""

    name: str
    larger_is_better: bool
    description: str


@dataclasses.dataclass(frozen=True)
class Basis:
    """The directions that coordinates count along, so that other changes can be measured by them later.

    Attributes:
        directions: int8 [d, n, e], orthonormal over sketches of n images, each in units of its scale.
        scale: float32 [d, n].
        unit: float32 [n], by image, how long changes of it are compared with those of others; coordinates
            are those of sketches divided by it.
    """

    directions: np.ndarray
    scale: np.ndarray
    unit: np.ndarray


@dataclasses.dataclass(frozen=True)
class Responses:
    """What each option does to the drawn images while all other layers are at full precision.

    Attributes:
        spaces: by ``latents``, ``features`` and ``mean_features`` (of the images), float32
            [L, O + A - 1, d]: coordinates of the change by each option, then by each of A activation options
            but 16. Squared lengths are its mean square (per latent element; per image,
            summed over features), where every image counts as much as any other over all options; angles are
            those between changes. NaN where a layer's option is still to be measured.
        num_images: images drawn for each.
        noise_seed: of these images.
        sketched: whether the spaces still hold sketches of each image in place of coordinates, as they do
            until all layers are measured; ``mean_features`` is not there yet.
        bases: of ``latents`` and ``features``; empty while sketched, and in stores of older versions.
    """

    spaces: dict[str, np.ndarray]
    num_images: int
    noise_seed: int
    sketched: bool = False
    bases: dict[str, Basis] = dataclasses.field(default_factory=dict)

    def unknown(self) -> np.ndarray:
        """What is still to be measured, bool [L, O + A - 1]."""
        return np.any([np.isnan(values).any(axis=2) for values in self.spaces.values()], axis=0)

    def missing(self) -> np.ndarray:
        """Positions of the layers of which something is still to be measured."""
        return np.flatnonzero(self.unknown().any(axis=1))

    def complete(self) -> np.ndarray:
        """Which options, and then activation options but 16, are measured in all layers, bool [O + A - 1]."""
        return np.logical_not(self.unknown().any(axis=0))


@dataclasses.dataclass(frozen=True)
class Header:
    """All that the records of a store share. L layers, O options, M labels.

    Attributes:
        denoiser: identity of the denoiser (see :func:`qsd.denoisers.pipeline.identity`).
        layers: weight layers in bank order.
        graph: the traced graph, whose weight nodes point into ``layers``.
        options: the option table.
        num_bytes: int64 [L, O], -1 where a layer cannot take an option.
        relative_error: float64 [L, O], NaN there.
        labels: what the columns of the label matrix mean.
        conditions: settings every record was measured under (images, steps, prompts, features, ...).
        provenance: versions, seed and command.
        responses: what each option does alone, if it was measured.
        activation_options: what the activations of a record mean, such as ``("16", "8")``.
    """

    denoiser: dict[str, Any]
    layers: list[WeightLayer]
    graph: Graph
    options: tuple[Option, ...]
    num_bytes: np.ndarray
    relative_error: np.ndarray
    labels: tuple[Label, ...]
    conditions: dict[str, Any]
    provenance: dict[str, Any]
    responses: Responses | None = None
    activation_options: tuple[str, ...] = FULL_ACTIVATIONS

    @property
    def available(self) -> np.ndarray:
        """Which layers can take which options, bool [L, O]."""
        return self.num_bytes >= 0

    @property
    def num_weights(self) -> np.ndarray:
        """Weights per layer, int64 [L]."""
        return np.array([layer.num_weights for layer in self.layers], dtype=np.int64)

    @property
    def options_hash(self) -> str:
        """Short stable hash of the option table."""
        return options_hash(self.options)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the responses are of: options, then activation options but 16 bits, [O + A - 1]."""
        return response_columns(self.options, self.activation_options)

    @property
    def label_names(self) -> list[str]:
        """Column names of the label matrix."""
        return [label.name for label in self.labels]


def response_columns(options: Iterable[object], activation_options: Iterable[object]) -> tuple[str, ...]:
    """Names of what responses are measured of, in the order of a table."""
    rounded = list(activation_options)[1:]
    return (*map(str, options), *(f"activations {option}" for option in rounded))


class _ResponseFacts(Schema):
    num_images: Annotated[int, Field(ge=1)]
    noise_seed: int
    sketched: bool = False


class Meta(Schema):
    """The JSON document of a store's file: schema version 2, or 1 where what came later is left out."""

    denoiser: dict[str, Any]
    layers: Annotated[list[WeightLayer], Field(min_length=1)]
    nodes: list[Node]
    options: Annotated[list[str], Field(min_length=1, max_length=127)]
    labels: list[Label]
    conditions: dict[str, Any]
    provenance: dict[str, Any]
    activation_options: Annotated[tuple[str, ...], Field(min_length=1, max_length=127)] = FULL_ACTIVATIONS
    responses: _ResponseFacts | None = None
    hashes: dict[str, str] = Field(default_factory=dict)
    replaced: Annotated[str, Field(pattern="^([0-9a-f]{32})?$")] = ""
