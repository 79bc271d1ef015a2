"""A trained ranker on disk: one safetensors file per member and one JSON that explains them."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qsd.denoisers.graph import Graph
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option
from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.features import FEATURE_VERSION, GraphFeatures
from qsd.ranker.joint import weight_options
from qsd.ranker.network import NetworkSettings
from qsd.store import Header
from qsd.support.errors import QsdError, first_line
from qsd.support.files import atomic
from qsd.support.paths import find

FORMAT = "qsd-ranker"
VERSION = 7
FILE_NAME = "ranker.json"
_BATCH_SIZE = 256


class Described(Protocol):
    """What a bank and the header of a store both say about themselves."""

    @property
    def denoiser(self) -> dict[str, Any]: ...
    @property
    def layers(self) -> list[WeightLayer]: ...
    @property
    def options(self) -> tuple[Option, ...]: ...
    @property
    def activation_options(self) -> Sequence[object]: ...


class Ranker:
    """An ensemble bound to one denoiser and option table. L layers, O options.

    Attributes:
        folder: where it was loaded from.
        header: the denoiser, its layers, graph and option table, as in the store it was trained on.
        features: the graph as the networks see it.
        members: the ensemble, in evaluation mode.
        store: position of the denoiser among those that the members know.
        target: expression that is predicted; larger is better.
        metrics: measured after training, by predictor.
        provenance: versions and settings.
    """

    def __init__(
        self, folder: Path, header: Header, members: Ensemble, document: Mapping[str, Any], store: int = 0
    ) -> None:
        self.folder = folder
        self.header = header
        self.features = GraphFeatures.of(header)
        self.members = members.eval().requires_grad_(False)
        self.store = store
        self.target: str = document["target"]
        self.metrics: dict[str, Any] = document["metrics"]
        self.provenance: dict[str, Any] = document["provenance"]

    def predict(self, configs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicts the target, in its own units.

        Args:
            configs: int8 [n, L], bank order.

        Returns:
            Mean and standard deviation over the members, each float64 [n].

        Raises:
            QsdError: the configs do not fit the layers or the option table.
        """
        configs = np.atleast_2d(np.asarray(configs))
        shape = (len(self.header.layers), len(self.header.options))
        if configs.shape[1] != shape[0] or (
            configs.size
            and not (
                0 <= configs.min() <= configs.max() < shape[1]
                and self.header.available[np.arange(shape[0]), configs].all()
            )
        ):
            raise QsdError(
                f"{self.folder}: configs of shape {configs.shape} do not fit {shape[0]} layers with "
                f"{shape[1]} options; use configs of the denoiser and options it was trained on"
            )
        with torch.inference_mode():
            parts = [
                self.members.score(self.features, part, self.store)
                for part in torch.from_numpy(configs.astype(np.int64)).split(_BATCH_SIZE)
                if len(part)
            ]
            scores = torch.cat(parts, dim=1).double() if parts else torch.zeros(1, 0, dtype=torch.double)
        return scores.mean(dim=0).numpy(), scores.std(dim=0, correction=0).numpy()

    predict_with_spread = predict  # the name under which the search asks for both

    def contributions(self) -> np.ndarray | None:
        """Additive part of the prediction by layer and option, in the target's units, float64 [L, O].

        The mean over members, exact to first order around the mean of the training records where the ranker
        is additive; else what the best sum over layers makes of the same labels. None if the ranker has no
        closed-form part.
        """
        first = next(iter(self.members))
        if first.network.settings.closed_form == "none":
            return None
        tables = [
            member.contributions(self.store) * member.target_std[self.store, 0] for member in self.members
        ]
        table = torch.stack(tables).mean(dim=0).double().numpy()
        return table - table.mean(axis=1, keepdims=True)

    def check(self, other: Described, file: str | Path) -> None:
        """Refuses a bank or a store that the ranker was not trained for.

        Args:
            other: a bank or the header of a store.
            file: where it comes from, for the message.

        Raises:
            QsdError: another option table, another denoiser, or other layers.
        """
        _check_same(self.folder, self.header, other, file)


def save_ranker(
    folder: str | Path,
    members: Ensemble,
    headers: Sequence[Header],
    target: str,
    *,
    auxiliary: Sequence[str] = (),
    hyper_parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes a ranker folder; a ranker that is there already is replaced once the new one is complete.

    Args:
        folder: destination.
        members: the trained ensemble.
        headers: of the stores it was trained on, in the order of training.
        target: expression that it predicts.
        auxiliary: further expressions that it learned beside it.
        hyper_parameters: plain values.
        metrics: numbers to remember.
        provenance: versions, seed, command.
    """
    folder = Path(folder)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "feature_version": FEATURE_VERSION,
        "target": target,
        "auxiliary": list(auxiliary),
        "num_members": len(members),
        "network": dataclasses.asdict(next(iter(members)).network.settings),
        "hyper_parameters": dict(hyper_parameters or {}),
        "metrics": dict(metrics or {}),
        "provenance": dict(provenance or {}),
        "denoisers": [_header_to_json(header) for header in headers],
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for index, member in enumerate(members):
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in member.state_dict().items()}
        save_file(tensors, partial / _member_file(index))
    with atomic(partial / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("member-*.safetensors"):
        stale.unlink()
    for file in sorted(partial.iterdir()):  # the JSON sorts last, so it never names missing members
        file.replace(folder / file.name)
    partial.rmdir()


def load_ranker(folder: str | Path, denoiser: Mapping[str, Any] | None = None) -> Ranker:
    """Opens a ranker.

    Args:
        folder: what :func:`save_ranker` wrote, or the name of a shipped one.
        denoiser: identity of the denoiser to rank, if it was trained on several; None takes the first.

    Raises:
        QsdError: there is no ranker, it is damaged, its features are of another version, or it does not know
            the denoiser.
    """
    folder = find(folder)
    document = _read_document(folder)
    headers = [_header_from_json(data, folder) for data in document["denoisers"]]
    known = [header.denoiser for header in headers]
    if denoiser is not None and dict(denoiser) not in known:
        raise QsdError(
            f"{folder}: trained for {', '.join(map(_name, known))}, not for {_name(denoiser)}; "
            "train a ranker on a store of this denoiser"
        )
    store = 0 if denoiser is None else known.index(dict(denoiser))
    graphs = [GraphFeatures.of(header) for header in headers]
    settings = NetworkSettings(**document["network"])
    members = Ensemble()
    for index in range(document["num_members"]):
        member = Member(settings, graphs, 1 + len(document["auxiliary"]))
        file = folder / _member_file(index)
        try:
            member.load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise QsdError(
                f"{file}: damaged or missing ({first_line(error)}); train the ranker again"
            ) from error
        members.append(member)
    return Ranker(folder, headers[store], members, document, store)


def is_ranker(folder: str | Path) -> bool:
    """Whether a path is a ranker folder."""
    return (Path(folder) / FILE_NAME).is_file()


def _member_file(index: int) -> str:
    return f"member-{index}.safetensors"


def _read_document(folder: Path) -> dict[str, Any]:
    file = folder / FILE_NAME
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise QsdError(f"{folder}: holds no {FILE_NAME}; give a folder that `lightning fit` wrote") from error
    except ValueError as error:
        raise QsdError(f"{file}: not a JSON file (truncated or damaged); train the ranker again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise QsdError(f"{file}: not a ranker; give a folder that `lightning fit` wrote")
    for key, ours in {"version": VERSION, "feature_version": FEATURE_VERSION}.items():
        if document.get(key) != ours:
            raise QsdError(
                f"{file}: {key} {document.get(key)}, but this qsd has {ours}; train the ranker again or use "
                "the qsd that trained it"
            )
    return document


def _check_same(folder: Path, header: Header, other: Described, file: str | Path) -> None:
    activations = tuple(map(str, other.activation_options))
    if activations != header.activation_options:
        raise QsdError(
            f"{file}: its activation options are {', '.join(activations)}, but the ranker {folder} was "
            f"trained on {', '.join(header.activation_options)}; use files of one table"
        )
    options = weight_options(header)
    if tuple(other.options) != options:
        raise QsdError(
            f"{file}: its options are {', '.join(map(str, other.options))}, but the ranker {folder} was "
            f"trained on {', '.join(map(str, options))}; use files of one option table"
        )
    if other.denoiser != header.denoiser:
        raise QsdError(
            f"{file}: made for {_name(other.denoiser)}, but the ranker {folder} was trained for "
            f"{_name(header.denoiser)}; use files of one denoiser"
        )
    ours, theirs = ([layer.name for layer in one.layers] for one in (header, other))
    if ours != theirs:
        raise QsdError(
            f"{file}: its weight layers differ from those of the ranker {folder} "
            f"({len(theirs)} and {len(ours)}); make both with one version of qsd"
        )


def _name(denoiser: Mapping[str, Any]) -> str:
    return f"{denoiser.get('class')} with weights {str(denoiser.get('weights_hash'))[:8]}"


def _header_to_json(header: Header) -> dict[str, Any]:
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
    }


def _header_from_json(data: Mapping[str, Any], folder: Path) -> Header:
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
