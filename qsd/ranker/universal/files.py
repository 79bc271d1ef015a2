"""A universal ranker on disk: one safetensors file per member and one JSON that explains them."""

import dataclasses
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from qsd.ranker.features import FEATURE_VERSION
from qsd.ranker.universal.deviations import Variances
from qsd.ranker.universal.network import SPACES, ResponseNetwork, UniversalSettings
from qsd.ranker.universal.predictor import Calibration
from qsd.ranker.universal.universal import Seen, Universal
from qsd.support.documents import Schema, check_schema, read_json, write_json
from qsd.support.errors import QsdError, first_line
from qsd.support.folders import replacing, restore
from qsd.support.hashing import verifying
from qsd.support.paths import find
from qsd.support.tensors import all_finite, open_tensors, save_tensors

FORMAT = "qsd-universal-ranker"
VERSION = 1
FILE_NAME = "universal.json"
SHIPPED = "ranker-universal"
"""Name of the one that ships with qsd."""
_ARRAYS = "qsd-universal-arrays"
_REMEDY = "train it again with `lightning fit --config universal.yaml`"


class _Document(Schema):
    format: str
    version: int
    feature_version: str
    spaces: tuple[str, ...]
    network: UniversalSettings
    num_members: Annotated[int, Field(ge=1, le=1000)]
    seen: Seen
    variances: tuple[Variances, ...]
    calibration: Calibration
    target: str
    metrics: dict[str, Any]
    denoisers: list[dict[str, Any]]
    hyper_parameters: dict[str, Any]
    provenance: dict[str, Any]
    files: dict[str, str]
    hash: str | None = None


def save_universal(folder: str | Path, ranker: Universal) -> None:
    """Writes a folder; one that is there already is replaced once the new one is complete."""
    with replacing(folder, _is_ours) as new:
        files = {}
        for place, member in enumerate(ranker.members):
            name = f"member-{place}.safetensors"
            files[name] = save_tensors(new / name, member.state_dict(), {"format": _ARRAYS, "version": 1})
        document = {
            "format": FORMAT,
            "version": VERSION,
            "feature_version": FEATURE_VERSION,
            "spaces": list(SPACES),
            "network": dataclasses.asdict(ranker.members[0].settings),
            "num_members": len(ranker.members),
            "seen": dataclasses.asdict(ranker.seen),
            "variances": [dataclasses.asdict(one) for one in ranker.variances],
            "calibration": dataclasses.asdict(ranker.calibration),
            "target": ranker.target,
            "metrics": ranker.metrics,
            "denoisers": ranker.denoisers,
            "hyper_parameters": ranker.hyper_parameters,
            "provenance": ranker.provenance,
        }
        write_json(new / FILE_NAME, document | {"files": files})


def load_universal(folder: str | Path = SHIPPED) -> Universal:
    """Opens a universal ranker.

    Args:
        folder: what :func:`save_universal` wrote, or the name of a shipped one.

    Raises:
        QsdError: there is none, it is damaged, or its features are of another version.
    """
    folder = find(folder)
    restore(folder)
    file = folder / FILE_NAME
    if not file.is_file():
        raise QsdError(f"{folder}: holds no {FILE_NAME}; {_REMEDY}")
    document = read_json(file, FORMAT, VERSION, remedy=_REMEDY)
    if document.get("feature_version") != FEATURE_VERSION or tuple(document.get("spaces", ())) != SPACES:
        raise QsdError(f"{file}: its features are of another version of qsd; {_REMEDY}")
    meta = check_schema(_Document, document, file, _REMEDY)
    members = []
    for place in range(meta.num_members):
        name = f"member-{place}.safetensors"
        with open_tensors(folder / name, {_ARRAYS: 1}, _REMEDY) as opened:
            if verifying() and opened.meta["hash"] != meta.files.get(name):
                raise QsdError(f"{folder / name}: belongs to another ranker than {FILE_NAME}; {_REMEDY}")
            tensors = {key: opened.tensor(key) for key in opened.names}
        if not all(map(all_finite, tensors.values())):
            raise QsdError(f"{folder / name}: not finite; {_REMEDY}")
        member = ResponseNetwork(meta.network)
        try:
            member.load_state_dict(tensors)
        except RuntimeError as error:
            raise QsdError(f"{folder / name}: damaged ({first_line(error)}); {_REMEDY}") from error
        members.append(member.eval().requires_grad_(False))
    return Universal(
        members=members,
        seen=meta.seen,
        variances=meta.variances,
        calibration=meta.calibration,
        target=meta.target,
        metrics=meta.metrics,
        denoisers=meta.denoisers,
        hyper_parameters=meta.hyper_parameters,
        provenance=meta.provenance,
        folder=folder,
    )


def shipped_universal(folder: str | Path | None = None) -> Universal | None:
    """The universal ranker of a folder; without one the shipped one, None if none ships.

    Raises:
        QsdError: as :func:`load_universal`.
    """
    if folder is not None:
        return load_universal(folder)
    try:
        path = find(SHIPPED)
    except QsdError:
        return None
    return load_universal(path)


def is_universal(folder: str | Path) -> bool:
    """Whether a path is the folder of a universal ranker."""
    return (Path(folder) / FILE_NAME).is_file()


def _is_ours(name: str) -> bool:
    return name == FILE_NAME or fnmatch(name, "member-*.safetensors")
