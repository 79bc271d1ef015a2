"""The HDF5 store: one graph, one option table, many (config, labels) records."""

from qsd.store.store import SPLITS, Header, Label, Records, Responses, Store, split_of_index

__all__ = ["SPLITS", "Header", "Label", "Records", "Responses", "Store", "split_of_index"]
