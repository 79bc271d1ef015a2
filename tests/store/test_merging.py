"""Merging: the same records in whatever order and however often; other kinds of work are refused."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from support.synthetic_store import synthetic_header, synthetic_responses, synthetic_store

from qsd.cli import main
from qsd.store import Header, Records, Response, Responses, Store
from qsd.store.merging import merge
from qsd.support.errors import QsdError


@pytest.fixture
def whole(tmp_path: Path) -> Store:
    return synthetic_store(tmp_path / "whole.h5", num_records=12, num_blocks=1)


def _shards(whole: Store, folder: Path) -> list[Path]:
    """Three stores that overlap, in other orders than the whole."""
    rows = [[7, 2, 3, 4], [0, 1, 2, 11], [5, 6, 8, 9, 10, 11, 4]]
    parts = [whole.records.select(np.array(some)) for some in rows]
    return [
        Store.create(folder / f"{number}.h5", whole.header, part).path for number, part in enumerate(parts)
    ]


def _same(one: Store, other: Store) -> bool:
    pairs = zip(vars(one.records).values(), vars(other.records).values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_order_and_repetition_do_not_matter(whole: Store, tmp_path: Path) -> None:
    shards = _shards(whole, tmp_path)
    for number, order in enumerate(itertools.permutations(shards)):
        merged = merge(tmp_path / f"merged-{number}.h5", order)
        assert (merged.added, merged.repeated, merged.differing) == (12, 3, 0)
        again = Store.open(tmp_path / f"merged-{number}.h5")
        assert _same(again, whole)
        assert merge(again.path, order[:2]).added == 0
        assert _same(Store.open(again.path), whole)
    step = merge(tmp_path / "steps.h5", shards[:1]).store.path
    for shard in (shards[2], shards[1], tmp_path / "merged-0.h5"):
        merge(step, [shard])
    assert _same(Store.open(step), whole)


def test_one_measurement_with_other_last_digits_is_counted(whole: Store, tmp_path: Path) -> None:
    labels = whole.records.labels.copy()
    labels[3] = np.nextafter(labels[3], np.inf)
    other = Store.create(
        tmp_path / "other.h5", whole.header, dataclasses.replace(whole.records, labels=labels)
    )
    results = [
        merge(tmp_path / f"{i}.h5", order)
        for i, order in enumerate(itertools.permutations([whole.path, other.path]))
    ]
    assert [result.differing for result in results] == [1, 1]
    assert _same(results[0].store, results[1].store)


def _with(header: Header, **changes: object) -> Header:
    return dataclasses.replace(header, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: _with(h, denoiser=h.denoiser | {"weights_hash": "1" * 32}), "in denoiser"),
        (lambda h: _with(h, options=h.options[::-1]), "in options"),
        (lambda h: _with(h, num_bytes=h.num_bytes + 1), "in num bytes of the bank"),
        (lambda h: _with(h, labels=h.labels[::-1]), "in labels"),
        (lambda h: _with(h, conditions={"num_images": 1}), r"in num_images \(0 and 1\)"),
        (
            lambda h: _with(h, provenance={"versions": {"torch": "9"}}),
            r"in the version of torch \(None and 9\)",
        ),
    ],
)
def test_other_work_is_refused(whole: Store, tmp_path: Path, change, message: str) -> None:
    other = Store.create(tmp_path / "other.h5", change(whole.header), whole.records).path
    before = whole.path.read_bytes()
    with pytest.raises(QsdError, match=rf"other\.h5: differs from .*whole\.h5 {message}"):
        merge(whole.path, [other])
    assert whole.path.read_bytes() == before


def test_responses_of_shards_come_together(tmp_path: Path) -> None:
    header = synthetic_header(num_blocks=1)
    truth = synthetic_responses(header)
    shards = []
    for number in range(2):
        path = Store.create(tmp_path / f"{number}.h5", header).path
        with Store.writing(path) as store:
            for layer in range(number, len(header.layers), 2):
                changes = {name: values[layer].astype(np.float32) for name, values in truth.spaces.items()}
                store.append_response(Response(layer, changes, 4, 0, {}))
        shards.append(path)
    assert Store.open(shards[0]).header.responses.sketched
    finished: list[Responses] = []

    def finish(responses: Responses) -> Responses:
        finished.append(responses)
        return dataclasses.replace(responses, sketched=False)

    for number, order in enumerate((shards, shards[::-1])):
        responses = merge(tmp_path / f"merged-{number}.h5", order, finish).store.header.responses
        assert not len(responses.missing())
        for name, values in truth.spaces.items():
            np.testing.assert_array_equal(responses.spaces[name], values.astype(np.float32))
    assert len(finished) == 2
    other = Store.create(
        tmp_path / "other.h5", _with(header, responses=dataclasses.replace(truth, num_images=5))
    )
    with pytest.raises(QsdError, match="probed with other images"):
        merge(tmp_path / "merged-0.h5", [other.path])


def test_the_verb(whole: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(shard) for shard in _shards(whole, tmp_path)]
    assert main(["store", "merge", str(tmp_path / "out.h5"), *words]) == 0
    assert "12 records, 12 of them new; 3 stood in" in " ".join(capsys.readouterr().out.split())
    assert _same(Store.open(tmp_path / "out.h5"), whole)
    assert main(["store", "compact", str(tmp_path / "out.h5")]) == 0
    assert main(["store", "migrate", str(tmp_path / "out.h5"), *words]) == 0
    assert "schema 2 -> 2" in " ".join(capsys.readouterr().out.split())
    assert main(["store", "merge", str(tmp_path / "out.h5"), str(tmp_path / "absent.h5")]) == 2
    assert "absent.h5: no such store" in capsys.readouterr().err
    assert isinstance(Store.open(tmp_path / "out.h5").records, Records)
