"""A trained ranker on disk: one safetensors file per member and one JSON that explains them."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import Field

from qsd.bank import Bank
from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.identity import describe, differing_part, same_denoiser
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option
from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.features import FEATURE_VERSION, GraphFeatures
from qsd.ranker.joint import pairs, weight_options
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import TARGET, Posteriors, describe_posteriors, load_posteriors
from qsd.search.posterior import Posterior
from qsd.store import Header
from qsd.support.documents import Schema, check_schema, read_json, write_json
from qsd.support.errors import QsdError, first_line
from qsd.support.folders import replacing, restore
from qsd.support.hashing import verifying
from qsd.support.paths import find
from qsd.support.tensors import all_finite, open_tensors, save_tensors

FORMAT = "qsd-ranker"
VERSION = 7
FILE_NAME = "ranker.json"
_POSTERIOR = "posterior-{}.safetensors"
_ARRAYS = "qsd-ranker-arrays"
_REMEDY = "train the ranker again"


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
        trained: the header with the table that the members and posteriors know; ``header`` has that of
            :meth:`over`.
        places: int64 [O], where the options of ``header`` stand in that table.
        unseen: options that were probed and that no label has seen.
        members: the ensemble, in evaluation mode.
        posteriors: what predicts the target and each label.
        full_precision: labels of the denoiser at full precision, where the store knows them.
        store: position of the denoiser among those that the members know.
        target: expression that is predicted; larger is better.
        metrics: measured after training, by predictor.
        provenance: versions and settings.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        members: Ensemble,
        posteriors: Posteriors,
        document: Mapping[str, Any],
        store: int = 0,
    ) -> None:
        self.folder = folder
        self._bind(header)
        self.members = members.eval().requires_grad_(False)
        self.posteriors = posteriors
        self.store = store
        self.full_precision: dict[str, float] = document["denoisers"][store]["full_precision"]
        self.target: str = document["target"]
        self.metrics: dict[str, Any] = document["metrics"]
        self.provenance: dict[str, Any] = document["provenance"]
        self.unseen: tuple[str, ...] = tuple(document["denoisers"][store].get("unseen", ()))

    def _bind(self, header: Header) -> None:
        """Takes the table of a header as that of the ranker."""
        self.header = self.trained = header
        self.features = GraphFeatures.of(header)
        self.places = np.arange(len(weight_options(header)))

    def over(self, options: Sequence[Option]) -> "Ranker":
        """The ranker of configs in another table.

        Args:
            options: of a bank, in any order; all of them known to the ranker (:meth:`check`).
        """
        if tuple(options) == weight_options(self.header):
            return self
        own, count = weight_options(self.trained), len(self.trained.activation_options)
        again = copy.copy(self)
        again.places = np.array([own.index(option) for option in options])
        columns = (again.places[:, None] * count + np.arange(count)).reshape(-1)
        again.header = dataclasses.replace(
            self.trained,
            options=tuple(self.trained.options[column] for column in columns),
            num_bytes=self.trained.num_bytes[:, columns],
            relative_error=self.trained.relative_error[:, columns],
        )
        again.features = GraphFeatures.of(again.header)
        return again

    def refitted(self, header: Header, posteriors: Posteriors, unseen: tuple[str, ...]) -> "Ranker":
        """The ranker with other posteriors, of a store that has learned more or whose table has grown."""
        again = copy.copy(self)
        again._bind(header)
        again.posteriors, again.unseen = posteriors, unseen
        return again

    def extrapolation(self, configs: np.ndarray) -> str:
        """Where predictions of configs int8 [n, L] extrapolate, in words; empty where they do not."""
        names = list(map(str, weight_options(self.header)))
        unseen = [place for place, name in enumerate(names) if name in self.unseen]
        used = [place for place in unseen if (configs == place).any()]
        if not used:
            return ""
        share = float(np.isin(configs, used).mean())
        return (
            f"no label has seen {', '.join(names[place] for place in used)}, which {share:.0%} of the layers "
            "have: there the ranker extrapolates from what options do alone"
        )

    @property
    def labels(self) -> list[str]:
        """Labels that are predicted beside the target."""
        return [name for name in self.posteriors if name != TARGET]

    def posterior(
        self, configs: np.ndarray, activations: np.ndarray | None = None, label: str | None = None
    ) -> Posterior:
        """What is known of configs, measurement noise included.

        Args:
            configs: int8 [n, L], bank order.
            activations: int8 [n, L], index into the store's activation options; None for 16 bits.
            label: a label of the store, in its own unit; None for the target.

        Raises:
            QsdError: the configs or activations do not fit the layers or their options, or the ranker does
                not predict the label.
        """
        configs = np.atleast_2d(np.asarray(configs))
        count = len(self.header.activation_options)
        shape = (len(self.header.layers), len(weight_options(self.header)))
        fits = configs.shape[1] == shape[0] and _within(configs, shape[1])
        fits &= activations is None or _within(np.asarray(activations), count)
        chosen = pairs(configs, activations, count) if fits else configs
        fits = fits and bool(self.header.available[np.arange(shape[0]), chosen].all())
        if not fits:
            raise QsdError(
                f"{self.folder}: configs of shape {configs.shape} do not fit {shape[0]} layers with "
                f"{shape[1]} options (and {count} of activations); use configs of the denoiser and options "
                "it was trained on"
            )
        if (label or TARGET) not in self.posteriors:
            raise QsdError(
                f"{self.folder}: does not predict {label!r}, only {', '.join(self.labels) or 'no label'}"
            )
        known = pairs(self.places[configs.astype(np.int64)], activations, count)
        return self.posteriors[label or TARGET].posterior(known)

    def contributions(self) -> np.ndarray | None:
        """Additive part of the prediction by layer and option, in the target's units, float64 [L, O].

        The mean over members, exact to first order around the mean of the training records where the ranker
        is additive; else what the best sum over layers makes of the same labels. None if the ranker has no
        closed-form part.
        """
        first = next(iter(self.members), None)
        if first is None or first.network.settings.closed_form == "none":
            return None
        tables = [
            member.contributions(self.store) * member.target_std[self.store, 0] for member in self.members
        ]
        count = len(self.trained.activation_options)
        columns = (self.places[:, None] * count + np.arange(count)).reshape(-1)
        table = torch.stack(tables).mean(dim=0).double().numpy()[:, columns]
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
    posteriors: Sequence[Posteriors],
    *,
    network: NetworkSettings | None = None,
    auxiliary: Sequence[str] = (),
    hyper_parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    unseen: Sequence[Sequence[str]] | None = None,
) -> None:
    """Writes a ranker folder; a ranker that is there already is replaced once the new one is complete.

    Args:
        folder: destination.
        members: the trained ensemble.
        headers: of the stores it was trained on, in the order of training.
        target: expression that it predicts.
        posteriors: by store, what predicts the target and the labels.
        network: architecture of the members; by default the first member's.
        auxiliary: further expressions that it learned beside it.
        hyper_parameters: plain values.
        metrics: numbers to remember.
        provenance: versions, seed, command.
        unseen: by store, options that were probed and that no label has seen.
    """
    folder = Path(folder)
    network = network or next(iter(members)).network.settings
    document = {
        "format": FORMAT,
        "version": VERSION,
        "feature_version": FEATURE_VERSION,
        "target": target,
        "auxiliary": list(auxiliary),
        "num_members": len(members),
        "network": dataclasses.asdict(network),
        "hyper_parameters": dict(hyper_parameters or {}),
        "metrics": dict(metrics or {}),
        "provenance": dict(provenance or {}),
        "denoisers": [
            _header_to_json(header) | {"unseen": list(some)}
            for header, some in zip(headers, unseen or [()] * len(headers), strict=True)
        ],
    }
    with replacing(folder, _is_ours) as new:
        files: dict[str, str] = {}
        for index, member in enumerate(members):
            name = _member_file(index)
            files[name] = save_tensors(new / name, member.state_dict(), {"format": _ARRAYS, "version": 1})
        predictors: list[dict[str, Any]] = []
        for store, (some, header) in enumerate(zip(posteriors, headers, strict=True)):
            name = _POSTERIOR.format(store)
            arrays, described = describe_posteriors(some, header.responses)
            files[name] = save_tensors(new / name, arrays, {"format": _ARRAYS, "version": 1})
            predictors.append(described)
        write_json(new / FILE_NAME, document | {"posteriors": predictors, "files": files})


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
    store = 0 if denoiser is None else _position(folder, headers, denoiser)
    graphs = [GraphFeatures.of(header) for header in headers]
    settings = NetworkSettings(**document["network"])
    members = Ensemble()
    try:
        for index in range(document["num_members"]):
            member = Member(settings, graphs, 1 + len(document["auxiliary"]))
            member.load_state_dict(_read_arrays(folder, _member_file(index), document))
            members.append(member)
        arrays = _read_arrays(folder, _POSTERIOR.format(store), document)
        posteriors = load_posteriors(arrays, document["posteriors"][store], members, headers[store], store)
    except QsdError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise QsdError(f"{folder}: damaged ranker ({first_line(error)}); {_REMEDY}") from error
    return Ranker(folder, headers[store], members, posteriors, document, store)


def _read_arrays(folder: Path, name: str, document: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of one of the files that a ranker consists of, finite and as they were written."""
    file = folder / name
    with open_tensors(file, {_ARRAYS: 1}, _REMEDY) as opened:
        if verifying() and opened.meta["hash"] != document["files"].get(name):
            raise QsdError(f"{file}: belongs to another ranker than {FILE_NAME}; {_REMEDY}")
        tensors = {key: opened.tensor(key) for key in opened.names}
    for key, tensor in tensors.items():
        if not all_finite(tensor):
            raise QsdError(f"{file}: tensor '{key}' is not finite; {_REMEDY}")
    return tensors


def _within(chosen: np.ndarray, count: int) -> bool:
    """Whether indices are those of one of so many options."""
    return not chosen.size or bool(chosen.min() >= 0 and chosen.max() < count)


def _position(folder: Path, headers: Sequence[Header], denoiser: Mapping[str, Any]) -> int:
    """Which of the denoisers of a ranker it is."""
    for position, header in enumerate(headers):
        if same_denoiser(header.denoiser, denoiser):
            return position
    known = ", ".join(describe(header.denoiser) for header in headers)
    raise QsdError(
        f"{folder}: trained for {known}, not for {describe(denoiser)}; "
        "train a ranker on a store of this denoiser"
    )


def is_ranker(folder: str | Path) -> bool:
    """Whether a path is a ranker folder."""
    return (Path(folder) / FILE_NAME).is_file()


def trained_on(folder: str | Path) -> dict[str, list[Any]]:
    """Identities of the ``denoisers`` of a ranker, and resolved paths of the ``stores`` it learned from.

    Raises:
        QsdError: the ranker is damaged or of another version.
    """
    document = _read_document(Path(folder))
    return {
        "denoisers": [entry["denoiser"] for entry in document["denoisers"]],
        "stores": [str(Path(path).resolve()) for path in document["provenance"].get("stores", [])],
    }


def _member_file(index: int) -> str:
    return f"member-{index}.safetensors"


def _is_ours(name: str) -> bool:
    return name == FILE_NAME or fnmatch(name, "member-*.safetensors") or fnmatch(name, _POSTERIOR.format("*"))


def _read_document(folder: Path) -> dict[str, Any]:
    file = folder / FILE_NAME
    restore(folder)
    if not file.is_file():
        raise QsdError(f"{folder}: holds no {FILE_NAME}; give a folder that `lightning fit` wrote")
    document = read_json(file, FORMAT, VERSION, remedy=_REMEDY)
    for key, ours in {"version": VERSION, "feature_version": FEATURE_VERSION}.items():
        if document.get(key) != ours:
            raise QsdError(
                f"{file}: {key} {document.get(key)}, but this qsd has {ours}; train the ranker again or use "
                "the qsd that trained it"
            )
    check_schema(_Document, document, file, _REMEDY)
    return document


class _Denoiser(Schema):
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


class _Document(Schema):
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


def _check_same(folder: Path, header: Header, other: Described, file: str | Path) -> None:
    activations = tuple(map(str, other.activation_options))
    if activations != header.activation_options:
        raise QsdError(
            f"{file}: its activation options are {', '.join(activations)}, but the ranker {folder} was "
            f"trained on {', '.join(header.activation_options)}; use files of one table"
        )
    options = weight_options(header)
    theirs = weight_options(other) if isinstance(other, Header) else tuple(other.options)
    unknown = [str(option) for option in theirs if option not in options]
    if unknown and not isinstance(other, Header):
        raise QsdError(
            f"{file}: {', '.join(unknown)} neither labeled nor probed in the store that the ranker {folder} "
            "learned from; run `qsd probe` with this bank, train again, or `qsd bank --drop` them"
        )
    if theirs != options and isinstance(other, Header):
        raise QsdError(
            f"{file}: its options are {', '.join(map(str, theirs))}, but the ranker {folder} was "
            f"trained on {', '.join(map(str, options))}; use files of one option table"
        )
    if part := differing_part(header.denoiser, other.denoiser):
        raise QsdError(
            f"{file}: made for {describe(other.denoiser)}, but the ranker {folder} was trained for "
            f"{describe(header.denoiser)} (another {part}); use files of one denoiser"
        )
    layers, others = ([layer.name for layer in one.layers] for one in (header, other))
    if layers != others:
        raise QsdError(
            f"{file}: its weight layers differ from those of the ranker {folder} "
            f"({len(others)} and {len(layers)}); make both with one version of qsd"
        )
    _check_same_codes(folder, header.conditions.get("bank"), other, file)


def _check_same_codes(
    folder: Path, learned: Mapping[str, str] | None, other: Described, file: str | Path
) -> None:
    """Equal options of equal denoisers may still have other codes, if another quantizer made the bank."""
    codes = other.option_hashes() if isinstance(other, Bank) else getattr(other, "conditions", {}).get("bank")
    for option, found in (codes or {}).items():
        if (learned or {}).get(option, found) != found:
            raise QsdError(
                f"{file}: its codes of {option} are not those that the ranker {folder} learned from; "
                "use the bank that its store was labeled with, or label a store of this one"
            )


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
        "full_precision": header.provenance.get("full_precision", {}),
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
