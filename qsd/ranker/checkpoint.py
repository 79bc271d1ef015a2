"""A trained ranker on disk: one safetensors file per member and one JSON that explains them."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.denoisers.identity import describe, same_denoiser
from qsd.quantizers.options import Option
from qsd.ranker.document import FILE_NAME, RankerDocument, header_from_json, header_to_json
from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.features import FEATURE_VERSION, GraphFeatures
from qsd.ranker.joint import pairs, weight_options
from qsd.ranker.matching import Described, check_same
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import TARGET, Posteriors, describe_posteriors, load_posteriors
from qsd.search.posterior import Posterior
from qsd.store import Header
from qsd.support.documents import check_schema, read_json, write_json
from qsd.support.errors import QsdError, first_line
from qsd.support.folders import replacing, restore
from qsd.support.hashing import verifying
from qsd.support.paths import find
from qsd.support.tensors import all_finite, open_tensors, save_tensors

FORMAT = "qsd-ranker"
VERSION = 7
_METRICS, _CALIBRATION = "metrics.json", "calibration.json"
_POSTERIOR = "posterior-{}.safetensors"
_ARRAYS = "qsd-ranker-arrays"
_REMEDY = "train the ranker again"


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
        last_seed: largest noise seed of the store when it was trained: records of later ones are fresh to it.
            None where that is not known.
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
        self.last_seed: int | None = document["denoisers"][store].get("last_seed")

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

    def energies(self) -> tuple[np.ndarray, ...]:
        """Minus the squared lengths of what each option does alone, by space, float64 [L, O] each.

        Additive scores that searches start from. None where no prediction is made of probed or expected
        changes, or activations have options, too.
        """
        if len(self.trained.activation_options) > 1:
            return ()
        found = getattr(self.posteriors[TARGET], "energies", lambda: ())()
        return tuple(table[:, self.places] for table in found)

    def check(self, other: Described, file: str | Path) -> None:
        """Refuses a bank or a store that the ranker was not trained for.

        Args:
            other: a bank or the header of a store.
            file: where it comes from, for the message.

        Raises:
            QsdError: another option table, another denoiser, or other layers.
        """
        check_same(self.folder, self.header, other, file)


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
    calibration: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    unseen: Sequence[Sequence[str]] | None = None,
    last_seeds: Sequence[int] | None = None,
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
        metrics: numbers to remember, also written as ``metrics.json``.
        calibration: likewise ``calibration.json``, for people.
        provenance: versions, seed, command.
        unseen: by store, options that were probed and that no label has seen.
        last_seeds: by store, the largest noise seed of its records.
    """
    folder = Path(folder)
    network = network or next(iter(members)).network.settings
    none: list[Sequence[str]] = [()] * len(headers)
    nothing: list[int | None] = [None] * len(headers)
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
            header_to_json(header) | {"unseen": list(some), "last_seed": last}
            for header, some, last in zip(headers, unseen or none, last_seeds or nothing, strict=True)
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
        for name, numbers in ((_METRICS, metrics), (_CALIBRATION, calibration)):
            if numbers is not None:
                write_json(new / name, numbers, hashed=False)
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
    headers = [header_from_json(data, folder) for data in document["denoisers"]]
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
    patterns = (FILE_NAME, _METRICS, _CALIBRATION, "member-*.safetensors", _POSTERIOR.format("*"))
    return any(fnmatch(name, pattern) for pattern in patterns)


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
    check_schema(RankerDocument, document, file, _REMEDY)
    return document
