"""The result of a search: configs from small to large, each better than all smaller ones, with provenance."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field
from scipy.stats import norm

from qsd.configs.document import layers_from_json, layers_to_json
from qsd.denoisers.identity import check_same_denoiser
from qsd.support.documents import Schema, read_json, write_json
from qsd.support.errors import QsdError

FRONT_FORMAT = "qsd-front"
FRONT_VERSION = 2


@dataclass(frozen=True)
class FrontMeta:
    """Where a front comes from.

    Attributes:
        layer_names: L names, bank order.
        option_names: O texts such as `uaq-4`, in the order of the option table.
        denoiser: Identity of the denoiser that the configs are for.
        options_hash: Hash of the option table.
        ranker: Identity of what predicted the quality.
        max_bytes: The byte budget of the search; None where there was none.
        max_bits: The same in average bits per weight.
        seed: Seed of the search.
        confidence: Members are ranked by what their quality exceeds with this probability.
        settings: Other settings of the search, and what it cost.
        command: The command that ran it.
        versions: Package name -> version.
    """

    layer_names: tuple[str, ...]
    option_names: tuple[str, ...]
    denoiser: dict[str, Any] = field(default_factory=dict)
    options_hash: str = ""
    ranker: dict[str, Any] = field(default_factory=dict)
    max_bytes: int | None = None
    max_bits: float | None = None
    seed: int = 0
    confidence: float = 0.5
    settings: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class Front:
    """A Pareto front of configs; n members, sizes rising and scores rising with them.

    A front of several objectives has rising sizes, and members that are best in one objective or another.

    Attributes:
        configs: int8 [n, L].
        predicted: float64 [n], predicted quality, larger is better.
        std: float64 [n], standard deviation of the posterior; 0 where the predictor knows none.
        num_bytes: int64 [n], exact.
        avg_bits: float64 [n], 8 * bytes / number of weights.
        meta: Provenance.
        measured: For each member None until it was measured, then label name -> number, along with how it was
            measured (number of images, seeds, ...). Whoever measures a member assigns `front.measured[i]`.
        objectives: Predicted value of each objective by name, float64 [n]; empty for a front of one quality.
    """

    configs: np.ndarray
    predicted: np.ndarray
    std: np.ndarray
    num_bytes: np.ndarray
    avg_bits: np.ndarray
    meta: FrontMeta
    measured: list[dict[str, Any] | None] = field(default_factory=list)
    objectives: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.measured:
            self.measured = [None] * len(self.configs)

    def __len__(self) -> int:
        return len(self.configs)

    @property
    def score(self) -> np.ndarray:
        """What members are ranked by, the lower confidence bound of the quality, float64 [n]."""
        return self.predicted - norm.ppf(self.meta.confidence) * self.std

    def best_index(self, *, max_bits: float | None = None, max_bytes: int | None = None) -> int:
        """Index of the best member among those that fit the limits given.

        That is the one that measured best, if any was measured; of a search for bounds, the smallest config
        that keeps them, which is the largest member; else the one of the best score.

        Raises:
            QsdError: No member fits.
        """
        fits = np.full(len(self), True)
        if max_bits is not None:
            fits &= self.avg_bits <= max_bits
        if max_bytes is not None:
            fits &= self.num_bytes <= max_bytes
        if not fits.any():
            raise QsdError(
                f"front: its smallest config has {int(self.num_bytes.min())} bytes "
                f"({self.avg_bits.min():.4f} average bits), above the limit; search again with that budget"
            )
        worth = {index: row["target"] for index, row in enumerate(self.measured) if row and "target" in row}
        measured = [index for index in worth if fits[index]]
        if "bounds" in self.meta.settings:
            return int(np.where(fits, self.num_bytes, -1).argmax())
        if measured:
            return max(measured, key=lambda index: float(worth[index]))
        return int(np.where(fits, self.score, -np.inf).argmax())

    def best(self, *, max_bits: float | None = None, max_bytes: int | None = None) -> np.ndarray:
        """The config of `best_index`, int8 [L]."""
        return self.configs[self.best_index(max_bits=max_bits, max_bytes=max_bytes)]

    def save(self, path: str | Path) -> None:
        """Writes the front as JSON, atomically, configs by layer name."""
        meta = self.meta
        write_json(
            path,
            {
                "format": FRONT_FORMAT,
                "version": FRONT_VERSION,
                "denoiser": meta.denoiser,
                "options_hash": meta.options_hash,
                "options": list(meta.option_names),
                "ranker": meta.ranker,
                "max_bytes": meta.max_bytes,
                "max_bits": meta.max_bits,
                "seed": meta.seed,
                "confidence": meta.confidence,
                "settings": meta.settings,
                "command": meta.command,
                "versions": meta.versions,
                "layer_names": list(meta.layer_names),
                "members": [self._member(index) for index in range(len(self))],
            },
        )

    def _member(self, index: int) -> dict[str, Any]:
        return {
            "num_bytes": int(self.num_bytes[index]),
            "avg_bits": float(self.avg_bits[index]),
            "predicted": {
                "quality": float(self.predicted[index]),
                "std": float(self.std[index]),
                "objectives": {name: float(values[index]) for name, values in self.objectives.items()},
            },
            "measured": self.measured[index],
            "layers": layers_to_json(self.configs[index], self.meta.layer_names, self.meta.option_names),
        }

    @classmethod
    def load(cls, path: str | Path, denoiser: dict[str, Any] | None = None) -> Self:
        """Reads a front.

        Args:
            path: A file that `save` wrote.
            denoiser: Identity that the front must carry; None does not check it.

        Raises:
            QsdError: The file is damaged, no front, or made for another denoiser.
        """
        document = read_json(path, FRONT_FORMAT, FRONT_VERSION, _Document, remedy="search again")
        try:
            if denoiser is not None:
                check_same_denoiser(denoiser, document["denoiser"], path)
            return cls._from_json(document, path)
        except QsdError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise QsdError(f"{path}: damaged front, {error!r}; search again") from error

    @classmethod
    def _from_json(cls, document: dict[str, Any], path: str | Path) -> Self:
        meta = FrontMeta(
            layer_names=tuple(document["layer_names"]),
            option_names=tuple(document["options"]),
            **{
                key: document[key]
                for key in (
                    *("denoiser", "options_hash", "ranker", "max_bytes", "max_bits"),
                    *("seed", "confidence", "settings", "command", "versions"),
                )
            },
        )
        members = document["members"]
        if not members:
            raise QsdError(f"{path}: the front has no members; search again")
        return cls(
            configs=np.stack(
                [layers_from_json(m["layers"], meta.layer_names, meta.option_names, path) for m in members]
            ),
            predicted=np.array([member["predicted"]["quality"] for member in members], dtype=np.float64),
            std=np.array([member["predicted"]["std"] for member in members], dtype=np.float64),
            num_bytes=np.array([member["num_bytes"] for member in members], dtype=np.int64),
            avg_bits=np.array([member["avg_bits"] for member in members], dtype=np.float64),
            meta=meta,
            measured=[member["measured"] for member in members],
            objectives={
                name: np.array([member["predicted"]["objectives"][name] for member in members])
                for name in members[0]["predicted"].get("objectives", {})
            },
        )


class _Predicted(Schema):
    quality: float
    std: Annotated[float, Field(ge=0)]
    objectives: Annotated[dict[str, float], Field(default_factory=dict)]


class _Member(Schema):
    num_bytes: Annotated[int, Field(ge=0, lt=2**63)]
    avg_bits: Annotated[float, Field(ge=0)]
    predicted: _Predicted
    measured: dict[str, Any] | None
    layers: dict[str, str]


class _Document(Schema):
    format: Literal["qsd-front"]
    version: Literal[2]
    denoiser: dict[str, Any]
    options_hash: str
    options: Annotated[list[str], Field(min_length=1, max_length=127)]
    ranker: dict[str, Any]
    max_bytes: int | None
    max_bits: float | None
    seed: int
    confidence: Annotated[float, Field(gt=0, lt=1)]
    settings: dict[str, Any]
    command: str
    versions: dict[str, str]
    layer_names: list[str]
    members: list[_Member]
    hash: str | None = None
