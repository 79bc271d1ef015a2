"""What is checked before anything of a store's file is taken for data."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsd.denoisers.checks import check_layers
from qsd.store.records import Records, split_of_index
from qsd.store.schema import Basis, Header, Responses
from qsd.support.hashing import array_hash, verifying

_ALWAYS_ALLOWED = 64 * 2**20
_MOST_PER_BYTE = 100


def checked_file(file: h5py.File, path: Path) -> None:
    """Refuses a file whose datasets claim far more memory than the file is large.

    Raises:
        ValueError: it does.
    """
    claimed = 0
    for group in ("/", "/graph", "/options", "/options/responses", "/options/bases", "/records"):
        if _is_own(file, group) and isinstance(file[group], h5py.Group):
            names = [f"{group}/{name}" for name in file[group]]
            items = [file[name] for name in names if _is_own(file, name)]
            claimed += sum((item.size or 0) * item.dtype.itemsize for item in items if _is_dataset(item))
    size = path.stat().st_size
    if claimed > _ALWAYS_ALLOWED + _MOST_PER_BYTE * size:
        raise ValueError(f"its datasets claim {claimed} bytes in a file of {size}")


def _is_dataset(item: Any) -> bool:
    return isinstance(item, h5py.Dataset)


def _is_own(file: h5py.File, name: str) -> bool:
    """Whether all steps of a path are hard links, which stay inside the file."""
    steps = name.strip("/").split("/") if name.strip("/") else []
    paths = ("/".join(steps[: count + 1]) for count in range(len(steps)))
    return all(isinstance(file.get(path, getlink=True), h5py.HardLink) for path in paths)


def checked_dataset(
    file: h5py.File, name: str, dtype: Any, ndim: int, hashes: dict[str, str] | None = None
) -> np.ndarray:
    """A dataset of the file itself, of the dtype and rank it must have, and of the hash noted for it.

    Raises:
        KeyError: there is none.
        ValueError: it is anything else, or its values lie in other files.
    """
    if not _is_own(file, name):
        raise ValueError(f"/{name} is missing or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"/{name} is no dataset")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"/{name} keeps its values in other files")
    if dataset.dtype != np.dtype(dtype) or dataset.ndim != ndim:
        raise ValueError(
            f"/{name} is {dataset.dtype} of {dataset.ndim} dimensions instead of {np.dtype(dtype)} of {ndim}"
        )
    values = dataset[()]
    if hashes and verifying() and hashes.get(name) != array_hash(values):
        raise ValueError(f"/{name} differs from its hash")
    return values


def check_content(header: Header, records: Records) -> None:
    """Checks shapes against each other, ranges, finite numbers, and what follows from other columns.

    Raises:
        ValueError: something does not fit.
    """
    layers, options, labels = len(header.layers), len(header.options), len(header.labels)
    _expect("/options/num_bytes", header.num_bytes.shape, (layers, options))
    _expect("/options/relative_error", header.relative_error.shape, (layers, options))
    available = header.available
    if header.num_bytes.min(initial=0) < -1 or not available.any(axis=1).all():
        raise ValueError("/options/num_bytes has negative sizes, or a layer without any option")
    error = header.relative_error[available]
    if not (np.isfinite(error) & (error >= 0)).all():
        raise ValueError("/options/relative_error is negative or not finite")
    check_layers(header.layers, header.graph)
    if header.responses is not None:
        for name, values in header.responses.spaces.items():
            columns = options + len(header.activation_options) - 1
            _expect(f"/options/responses/{name}", values.shape[:2], (layers, columns))
            if np.isinf(values).any():
                raise ValueError(f"/options/responses/{name} is not finite")
        for name, basis in header.responses.bases.items():
            _check_basis(name, basis, header.responses)
    rows = len(records.index)
    widths = {"config": (layers,), "activation": (layers,), "labels": (labels,)}
    for name, column in vars(records).items():
        _expect(f"/records/{name}", column.shape, (rows, *widths.get(name, ())))
    check_rows(header, records)


def _check_basis(name: str, basis: Basis, responses: Responses) -> None:
    where, images = f"/options/bases/{name}", responses.num_images
    if name not in responses.spaces:
        raise ValueError(f"{where} is of no space")
    coordinates = responses.spaces[name].shape[2]
    _expect(f"{where}.scale", basis.scale.shape, (coordinates, images))
    _expect(f"{where}.unit", basis.unit.shape, (images,))
    _expect(f"{where}.directions", basis.directions.shape[:2], (coordinates, images))
    for part in (basis.scale, basis.unit):
        if not (np.isfinite(part) & (part >= 0)).all():
            raise ValueError(f"{where} is negative or not finite")


def check_rows(header: Header, records: Records) -> None:
    """Checks the values of records.

    Raises:
        ValueError: an option that a layer lacks, an infinite label, or a split that contradicts the index.
    """
    options = len(header.options)
    config = records.config.astype(np.int64)
    if config.size and not (config.min() >= 0 and config.max() < options):
        raise ValueError("/records/config names options that are not in the table")
    if not header.available[np.arange(config.shape[1]), config].all():
        raise ValueError("/records/config names an option that its layer cannot take")
    activation = records.activation
    if activation.size and not (activation.min() >= 0 and activation.max() < len(header.activation_options)):
        raise ValueError("/records/activation names options that are not in the table")
    if np.isinf(records.labels).any():
        raise ValueError("/records/labels is not finite")
    if not (np.isfinite(records.seconds) & (records.seconds >= 0)).all():
        raise ValueError("/records/seconds is negative or not finite")
    if records.num_images.min(initial=0) < 0:
        raise ValueError("/records/num_images is negative")
    if (records.split != split_of_index(records.index)).any():
        raise ValueError("/records/split contradicts /records/index")
    if len(set(records.keys())) != len(records):
        raise ValueError("/records holds one measurement twice")


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise ValueError(f"{name} has shape {list(found)} instead of {list(expected)}")
