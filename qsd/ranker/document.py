"""``ranker.json``: its schema, and the denoisers in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option
from qsd.ranker.network import NetworkSettings
from qsd.store import Header
from qsd.support.documents import Schema
from qsd.support.errors import QsdError, first_line

FILE_NAME = "ranker.json"


class _Denoiser(Schema):
    """A denoiser that the ranker knows, as :func:`header_to_json` writes it."""

    denoiser: dict[str, Any]
    layers: Annotated[list[WeightLayer], Field(min_length=1)]
    nodes: list[Node]
    edge_index: Annotated[list[list[int]], Field(min_length=2, max_length=2)]
    options: Annotated[list[str], Field(min_length=1, max_length=127)]
    options_hash: str
    num_bytes: list[list[Annotated[int, Field(ge=-1, lt=2**63)]]]
    relative_error: list[list[Annotated[float, Field(ge=0)]]]
    conditions: dict[str, Any]
    activation_options: Annotated[list[str], Field(min_length=1, max_length=127)]
    full_precision: dict[str, float]
    unseen: list[str] = Field(default_factory=list)
    last_seed: int | None = None


class RankerDocument(Schema):
    """What the file must hold."""

    format: str
    version: int
    feature_version: str
    target: str
    auxiliary: list[str]
    num_members: Annotated[int, Field(ge=0, le=1000)]
    network: NetworkSettings
    hyper_parameters: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    denoisers: Annotated[list[_Denoiser], Field(min_length=1)]
    posteriors: list[dict[str, dict[str, Any]]]
    files: dict[str, str]
    hash: str | None = None


def header_to_json(header: Header) -> dict[str, Any]:
    """What a ranker keeps of the header of a store."""
    return {
        "denoiser": header.denoiser,
        "layers": [layer.to_json() for layer in header.layers],
        "nodes": header.graph.to_json(),
        "edge_index": header.graph.edge_index.tolist(),
        "options": [str(option) for option in header.options],
        "options_hash": header.options_hash,
        "num_bytes": header.num_bytes.tolist(),
        "relative_error": np.where(header.available, header.relative_error, 0.0).tolist(),
        "conditions": header.conditions,
        "activation_options": list(header.activation_options),
        "full_precision": header.provenance.get("full_precision", {}),
    }


def header_from_json(data: Mapping[str, Any], folder: Path) -> Header:
    """The header again.

    Raises:
        QsdError: its parts do not fit together.
    """
    try:
        num_bytes = np.array(data["num_bytes"], dtype=np.int64)
        return Header(
            denoiser=data["denoiser"],
            layers=[WeightLayer.from_json(layer) for layer in data["layers"]],
            graph=Graph.from_json(data["nodes"], np.array(data["edge_index"], dtype=np.int64).reshape(2, -1)),
            options=tuple(Option.parse(text) for text in data["options"]),
            num_bytes=num_bytes,
            relative_error=np.where(num_bytes < 0, np.nan, np.array(data["relative_error"], np.float64)),
            labels=(),
            conditions=data["conditions"],
            provenance={},
            activation_options=tuple(data["activation_options"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise QsdError(
            f"{folder / FILE_NAME}: damaged ({first_line(error)}); train the ranker again"
        ) from error
