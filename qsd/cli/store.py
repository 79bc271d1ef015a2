"""``qsd store``: look into stores, put them together, and bring them up to date."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qsd.cli.console import bar, console, print_json, run_function
from qsd.cli.tables import number_table
from qsd.store import SCHEMA_VERSION, SPLITS, Header, Store
from qsd.store.merging import merge as merge_stores


def info(file: str, json: bool = False) -> None:
    """Says what a store holds.

    Args:
        file: the store.
        json: print JSON.
    """
    show(Store.open(file), json)


def merge(out: str, sources: list[str]) -> None:
    """Adds the records of stores to a store: shards of one work become one.

    The result does not depend on the order of the sources, and merging again changes nothing. Stores that
    measured another denoiser, option table, conditions or with other software are refused.

    Args:
        out: the store to create or add to.
        sources: the stores, such as `shard-*.h5`, or folders of them, such as `digits.h5.shards`.
    """
    from qsd.labels.probing import summarized  # it takes seconds to load torch
    from qsd.labels.shards import shard_files

    with bar("Merge") as progress:
        files = [file for source in sources for file in shard_files(source)]
        done = merge_stores(out, files, summarized)
        progress(1, 1, "")
    console.print(
        f"{done.store.path}: {len(done.store.records)} records, {done.added} of them new; "
        f"{done.repeated} stood in several stores"
        + (
            f", {done.differing} of them with other last digits (the smaller label is kept)"
            * bool(done.differing)
        )
    )


def migrate(files: list[str], bank: str | None = None) -> None:
    """Writes stores in the layout of this version, whatever version made them, or with a larger option table.

    Stores of older versions are read as they are; only this verb, and whatever appends, rewrites them. With a
    bank, options that it has and a store lacks are added to the store's table. Records and what was probed
    are kept; `qsd probe` then measures the new options alone.

    Args:
        files: the stores.
        bank: of the stores' denoiser, such as one that `qsd bank --add` has grown.
    """
    header = _header_of(bank) if bank else None
    for file in files:
        with Store.writing(file) as store:
            before, old = store.version, len(store.header.options)
            _grow(store, header)
            store.rewrite(store.header)
        told = f"{file}: {len(store.records)} records, schema {before} -> {SCHEMA_VERSION}"
        now = store.header
        if header is not None:
            told += f", {old} -> {len(now.options)} options"
            unprobed = now.responses is not None and len(now.responses.missing())
            told += "; probe the new ones with `qsd probe`" * bool(unprobed)
        console.print(told)


def _header_of(bank: str) -> Header:
    from qsd.bank import Bank  # it takes seconds to load torch
    from qsd.labels.labeling import header_of

    loaded = Bank.load(bank)
    return header_of(loaded, {"bank": loaded.option_hashes()})


def _grow(store: Store, header: Header | None) -> None:
    if header is not None:
        from qsd.denoisers.identity import check_same_denoiser
        from qsd.labels.labeling import grow

        check_same_denoiser(header.denoiser, store.header.denoiser, store.path)
        grow(store, header)


def compact(file: str, drop_damaged: bool = False) -> None:
    """Folds the journal of a store into its file, as every verb that ends in order does.

    Args:
        file: the store.
        drop_damaged: give up a journal that is lost, or what follows the damage in a damaged one.
    """
    with Store.writing(file, drop_damaged=drop_damaged) as store:
        store.rewrite(store.header)
    console.print(f"{file}: {len(store.records)} records in one file")


def show(store: Store, json: bool) -> None:
    """Prints :func:`store_facts`, for people or as JSON."""
    facts = store_facts(store)
    if json:
        print_json(facts)
        return
    repeats = facts["records"] - facts["configs"]
    more = f", {repeats} more from other noise seeds" if repeats else ""
    table = number_table(
        f"{store.path}: {facts['configs']} configs of {facts['denoiser']['class']}{more}",
        ("label", "full precision", "min", "median", "max", "missing"),
    )
    for name, row in facts["labels"].items():
        full = row["full_precision"]
        numbers = ["" if full is None else f"{full:.4g}"]
        numbers += ["" if row[key] is None else f"{row[key]:.4g}" for key in ("min", "median", "max")]
        table.add_row(name, *numbers, str(row["missing"]))
    console.print(table)
    console.print(f"{facts['layers']} weight layers, {facts['nodes']} nodes, {facts['edges']} edges")
    console.print(f"options: {', '.join(facts['options'])} (table {facts['options_hash']})")
    console.print(
        "records by split: " + ", ".join(f"{name} {count}" for name, count in facts["splits"].items())
    )
    if probed := facts["probed"]:
        console.print(f"probed: {probed['layers']} layers, {probed['images']} images an option")
        if probed["unknown"]:
            console.print(f"not probed: {', '.join(probed['unknown'])}")
    if facts["records"] and (unseen := [option for option, count in facts["labeled"].items() if not count]):
        console.print(f"in no record: {', '.join(unseen)}")
    median, minutes = facts["median_seconds"] or 0, facts["seconds"] / 60
    console.print(f"labeling: {median:.1f} s a record (median), {minutes:.0f} min in all")
    if store.torn:
        console.print("a last record was left out: its writer was stopped while writing it")
    console.print("conditions: " + ", ".join(f"{key}={value}" for key, value in facts["conditions"].items()))


def store_facts(store: Store) -> dict[str, Any]:
    """What ``store info`` says, as JSON values."""
    header, records = store.header, store.records
    full = header.provenance.get("full_precision", {})
    responses = header.responses
    return {
        "denoiser": header.denoiser,
        "layers": len(header.layers),
        "nodes": header.graph.num_nodes,
        "edges": header.graph.num_edges,
        "options": [str(option) for option in header.options],
        "options_hash": header.options_hash,
        "labeled": {
            str(option): int((records.config == place).any(axis=1).sum())
            for place, option in enumerate(header.options)
        },
        "records": len(records),
        "configs": len(np.unique(records.index)),
        "splits": {name: int((records.split == code).sum()) for code, name in enumerate(SPLITS)},
        "labels": {
            name: {"full_precision": full.get(name), **_summary(store.values(name))}
            for name in (*header.label_names, "avg_bits", "bytes")
        },
        "probed": responses
        and {
            "images": responses.num_images,
            "layers": int(np.logical_not(responses.unknown()).any(axis=1).sum()),
            "missing": len(responses.missing()),
            "unknown": [
                name
                for name, known in zip(header.columns, responses.complete(), strict=True)
                if not known and not responses.sketched
            ],
            "spaces": {name: values.shape[-1] for name, values in responses.spaces.items()},
        },
        "seconds": float(records.seconds.sum()),
        "median_seconds": float(np.median(records.seconds)) if len(records) else None,
        "conditions": header.conditions,
        "provenance": header.provenance,
    }


def _summary(values: np.ndarray) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    summary: dict[str, Any] = {"missing": int(len(values) - len(finite))}
    for key, function in (("min", np.min), ("median", np.median), ("max", np.max)):
        summary[key] = float(function(finite)) if len(finite) else None
    return summary


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    verbs: dict[str, Callable[..., None]] = {
        "info": info,
        "merge": merge,
        "migrate": migrate,
        "compact": compact,
    }
    run_function(verbs, _with_list(list(words)), positional=True)


def _with_list(words: list[str]) -> list[str]:
    """Puts the names that end a ``merge`` or ``migrate`` into the one list that the parser reads."""
    first = {"merge": 3, "migrate": 2}.get(words[1] if len(words) > 1 else "", len(words))
    last = next((at for at in range(first, len(words)) if words[at].startswith("-")), len(words))
    names = words[first:last]
    if not names:
        return words
    return [*words[:first], json.dumps(names), *words[last:]]
