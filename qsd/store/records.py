"""The rows of a store, and the split that each belongs to."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

SPLITS = ("train", "validation", "test")
_SPLIT_OF_INDEX = np.array([0] * 14 + [1] * 2 + [2] * 4, dtype=np.int8)


def split_of_index(index: int | np.ndarray) -> np.ndarray:
    """The split of the record at ``index`` of the config stream: 70 % train, 10 % validation, 20 % test.

    Configs are independent draws, so a fixed pattern over their positions is a random split that stays
    the same however far the store grows. The pattern is permuted per block of 20 to look like nothing
    that the sampler could correlate with. Configs that a search chose are no draws: their index is negative,
    and they are train.
    """
    index = np.asarray(index, dtype=np.int64)
    return np.where(index < 0, np.int8(0), _SPLIT_OF_INDEX[(index % 20 * 7 + index // 20) % 20])


@dataclasses.dataclass(frozen=True)
class Records:
    """The rows of a store as aligned arrays. R records, L layers, M labels.

    Attributes:
        index: int64 [R], position in the seeded stream of random configs; negative for chosen configs.
        config: int8 [R, L], option index per layer, bank order.
        activation: int8 [R, L], index into the header's ``activation_options`` per layer.
        labels: float64 [R, M], NaN where a label is missing.
        noise_seed: int64 [R].
        split: int8 [R], 0 train, 1 validation, 2 test; follows from ``index``.
        seconds: float32 [R], what the record cost.
        num_images: int32 [R], images that the labels were measured on.
    """

    index: np.ndarray
    config: np.ndarray
    activation: np.ndarray
    labels: np.ndarray
    noise_seed: np.ndarray
    split: np.ndarray
    seconds: np.ndarray
    num_images: np.ndarray

    @classmethod
    def empty(cls, num_layers: int, num_labels: int) -> Self:
        """No rows, with the right widths."""
        return cls(
            index=np.zeros(0, np.int64),
            config=np.zeros((0, num_layers), np.int8),
            activation=np.zeros((0, num_layers), np.int8),
            labels=np.zeros((0, num_labels), np.float64),
            noise_seed=np.zeros(0, np.int64),
            split=np.zeros(0, np.int8),
            seconds=np.zeros(0, np.float32),
            num_images=np.zeros(0, np.int32),
        )

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: np.ndarray) -> Self:
        """The rows at positions or under a mask."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def of_split(self, name: str) -> Self:
        """The rows of ``train``, ``validation`` or ``test``."""
        return self.select(self.split == SPLITS.index(name))

    def joined(self, others: Sequence[Self]) -> Self:
        """These rows and those of others below them."""
        columns: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            parts = [getattr(part, field.name) for part in (self, *others)]
            columns[field.name] = np.concatenate(parts)
        return type(self)(**columns)

    def keys(self) -> list[tuple[int, int, int, bytes, bytes]]:
        """What makes each record one measurement and no other: equal keys are the same work done twice."""
        return [
            (int(index), int(seed), int(images), config.tobytes(), activation.tobytes())
            for index, seed, images, config, activation in zip(
                self.index, self.noise_seed, self.num_images, self.config, self.activation, strict=True
            )
        ]
