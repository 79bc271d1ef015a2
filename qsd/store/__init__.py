"""The store: one graph, one option table, many (config, labels) records, in HDF5 and a journal."""

from qsd.store.hdf5 import SCHEMA_VERSION
from qsd.store.journal import Response
from qsd.store.records import SPLITS, Records, split_of_index
from qsd.store.schema import FULL_ACTIVATIONS, Basis, Header, Label, Responses
from qsd.store.store import Store
from qsd.store.tables import Places, grown, known_options, seen_by

__all__ = [
    "FULL_ACTIVATIONS",
    "SCHEMA_VERSION",
    "SPLITS",
    "Basis",
    "Header",
    "Label",
    "Places",
    "Records",
    "Response",
    "Responses",
    "Store",
    "grown",
    "known_options",
    "seen_by",
    "split_of_index",
]
