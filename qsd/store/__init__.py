"""The store: one graph, one option table, many (config, labels) records, in HDF5 and a journal."""

from qsd.store.hdf5 import SCHEMA_VERSION
from qsd.store.journal import Response
from qsd.store.records import SPLITS, Records, split_of_index
from qsd.store.schema import FULL_ACTIVATIONS, Header, Label, Responses
from qsd.store.store import Store

__all__ = [
    "FULL_ACTIVATIONS",
    "SCHEMA_VERSION",
    "SPLITS",
    "Header",
    "Label",
    "Records",
    "Response",
    "Responses",
    "Store",
    "split_of_index",
]
