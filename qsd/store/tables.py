"""Tables that change while records stay: options are matched by name, never by position."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qsd.quantizers.options import Option
from qsd.store.records import Records
from qsd.store.schema import Header, Responses, response_columns
from qsd.support.errors import QsdError
from qsd.support.hashing import array_hash

_MOST = 127


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the options of another table stand in that of a store.

    Attributes:
        options: int64 [O], -1 for an option that the store lacks.
        activations: int64 [A], likewise of activation options.
        columns: int64 [O + A - 1], likewise of what responses are measured of.
    """

    options: np.ndarray
    activations: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, header: Header, options: Sequence[Option], activation_options: Sequence[object]) -> "Places":
        """The places of a table in a header's."""
        activations = tuple(map(str, activation_options))
        return cls(
            _places(header.options, options),
            _places(header.activation_options, activations),
            _places(header.columns, response_columns(options, activations)),
        )


def _places(table: Sequence[object], wanted: Sequence[object]) -> np.ndarray:
    known = {entry: place for place, entry in enumerate(table)}
    return np.array([known.get(entry, -1) for entry in wanted], dtype=np.int64)


def grown(header: Header, other: Header, path: str | Path) -> Header:
    """The header of a store whose table has all options of another header beside its own.

    New options stand behind those that are there, so records keep their meaning. What options do alone is
    kept, and that of the new ones is still to be measured. Multiply-accumulates are taken over where the
    store has none.

    Args:
        header: of the store.
        other: of a bank of the same denoiser (see :func:`qsd.labels.labeling.header_of`).
        path: of the store, for the message.

    Returns:
        The same object where nothing is new.

    Raises:
        QsdError: the two have other layers, an option of both differs, or there would be over 127 options.
    """
    if [layer.name for layer in header.layers] != [layer.name for layer in other.layers]:
        raise QsdError(
            f"{path}: its weight layers are not those of the bank; make both with one version of qsd"
        )
    if not any(layer.macs for layer in header.layers) and any(layer.macs for layer in other.layers):
        counted = zip(header.layers, other.layers, strict=True)
        layers = [dataclasses.replace(layer, macs=known.macs) for layer, known in counted]
        header = dataclasses.replace(header, layers=layers)
    places = Places.of(header, other.options, other.activation_options)
    shared = np.flatnonzero(places.options >= 0)
    ours, theirs = (one.conditions.get("bank") or {} for one in (header, other))
    for place in shared:
        name = str(other.options[place])
        same = array_hash(header.num_bytes[:, places.options[place]]) == array_hash(other.num_bytes[:, place])
        if not same or ours.get(name, theirs.get(name)) != theirs.get(name, ours.get(name)):
            raise QsdError(
                f"{path}: its codes of {name} are not those of the bank; use the bank that it was begun "
                "with, or label into another store"
            )
    new = np.flatnonzero(places.options < 0)
    rounded = [text for text, at in zip(other.activation_options, places.activations, strict=True) if at < 0]
    if not len(new) and not rounded:
        return header
    if len(header.options) + len(new) > _MOST or len(header.activation_options) + len(rounded) > _MOST:
        raise QsdError(f"{path}: a table has at most {_MOST} options; label into another store")
    options = (*header.options, *(other.options[place] for place in new))
    activation_options = (*header.activation_options, *rounded)
    wide = dataclasses.replace(
        header,
        options=options,
        activation_options=activation_options,
        num_bytes=np.concatenate([header.num_bytes, other.num_bytes[:, new]], axis=1),
        relative_error=np.concatenate([header.relative_error, other.relative_error[:, new]], axis=1),
        conditions=header.conditions | {"bank": {**ours, **_of_new(theirs, other, new)}},
    )
    known = _places(header.columns, response_columns(options, activation_options))
    return dataclasses.replace(wide, responses=_columns(header.responses, known))


def _of_new(hashes: Mapping[str, str], header: Header, new: np.ndarray) -> dict[str, str]:
    names = (str(header.options[place]) for place in new)
    return {name: hashes[name] for name in names if name in hashes}


def seen_by(header: Header, records: Records, options: Sequence[Option]) -> tuple[Header, Records]:
    """A store in the order of another table; records with options outside it are left out.

    Args:
        header: of the store.
        records: all rows.
        options: at least one, all of the store.

    Raises:
        ValueError: an option is not in the store's table.
    """
    if tuple(options) == tuple(header.options):
        return header, records
    places = _places(header.options, options)
    if places.min() < 0:
        raise ValueError(f"no option {options[int(places.argmin())]}")
    back = np.full(len(header.options), -1, np.int8)
    back[places] = np.arange(len(places))
    columns = _places(header.columns, response_columns(options, header.activation_options))
    seen = dataclasses.replace(
        header,
        options=tuple(options),
        num_bytes=header.num_bytes[:, places],
        relative_error=header.relative_error[:, places],
        responses=_columns(header.responses, columns),
    )
    configs = back[records.config.astype(np.int64)]
    rows = np.flatnonzero((configs >= 0).all(axis=1))
    return seen, dataclasses.replace(records.select(rows), config=configs[rows])


def known_options(header: Header, records: Records) -> tuple[Option, ...]:
    """The options that something was measured of: probed in all layers, or in the config of a record."""
    labeled = np.zeros(len(header.options), dtype=bool)
    labeled[np.unique(records.config)] = True
    if header.responses is not None and not header.responses.sketched:
        labeled |= header.responses.complete()[: len(header.options)]
    return tuple(option for option, known in zip(header.options, labeled, strict=True) if known)


def _columns(responses: Responses | None, columns: np.ndarray) -> Responses | None:
    """Responses of other columns: those at positions, and NaN at -1."""
    if responses is None:
        return None
    spaces = {
        name: np.where((columns >= 0)[:, None], values[:, columns], np.float32(np.nan))
        for name, values in responses.spaces.items()
    }
    return dataclasses.replace(responses, spaces=spaces)
