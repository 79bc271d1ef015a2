"""Several stores of one kind of work made one: the same result in whatever order, and however often."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qsd.store.records import Records
from qsd.store.schema import Header, Responses
from qsd.store.store import Store
from qsd.support.errors import QsdError
from qsd.support.hashing import array_hash, json_hash

Finish = Callable[[Responses], Responses]
"""Makes of complete sketches what is kept of them (:func:`qsd.labels.probing.summarized`)."""


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        store: the result.
        added: records that the result did not have before.
        repeated: records that several stores had.
        differing: those of them whose labels differ in the last digits between stores; the smaller is kept.
    """

    store: Store
    added: int
    repeated: int
    differing: int


def merge(out: str | Path, sources: Sequence[str | Path], finish: Finish | None = None) -> Merged:
    """Adds the records and responses of stores to a store.

    Records are ordered by index, noise seed and number of images, so the result does not depend on the order
    of the sources, and merging again changes nothing.

    Args:
        out: the result; created, or added to.
        sources: stores of the same denoiser, option table, conditions and software.
        finish: called when the sketches of all layers have come together.

    Raises:
        QsdError: no source is given, a store is damaged, or one differs from the first in what it measured.
    """
    stores = [Store.open(path) for path in sources]
    if not stores:
        raise QsdError(f"{out}: no stores to merge; name at least one")
    first = min(stores, key=lambda store: json_hash(store.header.provenance)).header
    with Store.writing(out, lambda: dataclasses.replace(first, responses=None)) as store:
        for other in stores:
            part = differing_part(store.header, other.header)
            if part is not None:
                raise QsdError(f"{other.path}: differs from {store.path} in {part}; merge stores of one kind")
        headers = [store.header, *(other.header for other in stores)]
        responses = _responses([header.responses for header in headers], out)
        if responses is not None and responses.sketched and finish and not len(responses.missing()):
            responses = finish(responses)
        before = len(store.records)
        records, repeated, differing = _union(store.records, [other.records for other in stores])
        probe = [header.provenance["probe"] for header in headers if "probe" in header.provenance]
        provenance = dict(store.header.provenance)
        if probe:
            provenance["probe"] = min(probe, key=json_hash)
        header = dataclasses.replace(store.header, responses=responses, provenance=provenance)
        store.rewrite(header, records)
        return Merged(store, len(records) - before, repeated, differing)


def differing_part(one: Header, other: Header) -> str | None:
    """In words, the first thing in which two stores do not measure the same; None where they do."""
    arrays = ("num_bytes", "relative_error")
    parts = ("denoiser", "layers", "graph", "options", *arrays, "labels", "activation_options")
    for name in parts:
        ours, theirs = getattr(one, name), getattr(other, name)
        if name in arrays:
            if array_hash(ours) != array_hash(theirs):
                return f"{name.replace('_', ' ')} of the bank"
        elif ours != theirs:
            return name.replace("_", " ")
    for name in sorted(one.conditions.keys() | other.conditions.keys()):
        if one.conditions.get(name) != other.conditions.get(name):
            return f"{name} ({one.conditions.get(name)} and {other.conditions.get(name)})"[:160]
    ours, theirs = (header.provenance.get("versions", {}) for header in (one, other))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"the version of {name} ({ours.get(name)} and {theirs.get(name)})"
    return None


def _union(records: Records, others: Sequence[Records]) -> tuple[Records, int, int]:
    """All records once, in their own order; how many stood in several parts, and with other labels."""
    every = records.joined(others)
    rows_of: dict[tuple, list[int]] = {}
    for row, key in enumerate(every.keys()):
        rows_of.setdefault(key, []).append(row)
    kept, differing, repeated = [], 0, 0
    for key in sorted(rows_of):
        rows = sorted(rows_of[key], key=lambda row: (every.labels[row].tobytes(), float(every.seconds[row])))
        repeated += len(rows) > 1
        differing += len({every.labels[row].tobytes() for row in rows}) > 1
        kept.append(rows[0])
    return every.select(np.array(kept, dtype=np.int64)), repeated, differing


def _responses(parts: Sequence[Responses | None], out: str | Path) -> Responses | None:
    """The responses of all layers that any part knows."""
    known = [part for part in parts if part is not None]
    if len({(part.num_images, part.noise_seed) for part in known}) > 1:
        raise QsdError(f"{out}: the stores were probed with other images; probe again with --restart")
    if not known:
        return None
    sketched = [part for part in known if part.sketched]
    whole = [part for part in known if not part.sketched]
    if whole:
        best = min(whole, key=lambda part: (-int(part.complete().sum()), _order(part)))
        if not sketched or not len(best.missing()):
            return best
        known = sketched  # of more options than were measured to the end
    shapes = {tuple((name, values.shape) for name, values in sorted(part.spaces.items())) for part in known}
    if len(shapes) > 1:
        raise QsdError(f"{out}: the stores were half probed by other versions of qsd; probe again")
    spaces = {name: values.copy() for name, values in known[0].spaces.items()}
    for part in sorted(known, key=_order):
        unknown = Responses(spaces, 0, 0).unknown()
        for name, values in spaces.items():
            values[unknown] = part.spaces[name][unknown]
    return Responses(spaces, known[0].num_images, known[0].noise_seed, sketched=True)


def _order(part: Responses) -> list[str]:
    return sorted(map(array_hash, part.spaces.values()))
