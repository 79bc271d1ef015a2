"""Tables that grow, shrink and change their order while records keep their options by name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.synthetic_store import synthetic_header, synthetic_responses, synthetic_store

from qsd.quantizers.options import Option
from qsd.store import Basis, Header, Places, Response, Responses, Store, grown, known_options, seen_by
from qsd.support.errors import QsdError

NEW = Option.parse("uaq-4g32")  # one that layers with fewer than 32 inputs lack


def _other(header: Header, options: tuple[Option, ...], **changed: object) -> Header:
    """What a bank of the same denoiser and other options says."""
    sizes = {option: header.num_bytes[:, place] for place, option in enumerate(header.options)}
    new = np.array(
        [NEW.num_bytes(layer.shape) if NEW.accepts(layer.shape) else -1 for layer in header.layers]
    )
    num_bytes = np.stack([sizes.get(option, new) for option in options], axis=1)
    error = np.where(num_bytes < 0, np.nan, 0.1)
    hashes = {str(option): f"hash of {option}" for option in options}
    return dataclasses.replace(
        header,
        options=options,
        num_bytes=num_bytes,
        relative_error=error,
        conditions={"bank": hashes},
        responses=None,
        **changed,
    )


@pytest.mark.parametrize("seed", range(4))
def test_records_keep_their_options_by_name(tmp_path: Path, seed: int) -> None:
    """Whatever the order in which a bank has them, and whether it lacks some."""
    store = synthetic_store(tmp_path / "s.h5", 20, 1, seed=seed, probed=True)
    rng = np.random.default_rng(seed)
    old = store.header
    names = np.array(list(map(str, old.options)))[store.records.config]
    kept = rng.permutation(len(old.options))[: 6 - seed]
    options = tuple(old.options[place] for place in kept)
    wide = grown(old, _other(old, (*options[:2], NEW, *options[2:])), "s.h5")
    with Store.writing(store.path) as writing:
        writing.rewrite(wide)
    again = Store.open(store.path)
    assert again.header.options == (*old.options, NEW)
    found = np.array(list(map(str, again.header.options)))[again.records.config]
    np.testing.assert_array_equal(found, names)
    assert again.header.conditions["bank"] == {str(NEW): f"hash of {NEW}"}
    assert again.header.available[:, -1].tolist() == [NEW.accepts(layer.shape) for layer in old.layers]
    for name, values in again.header.responses.spaces.items():
        np.testing.assert_array_equal(values[:, :-1], old.responses.spaces[name].astype(np.float32))
        assert np.isnan(values[:, -1]).all()
    assert again.header.responses.complete().tolist() == [True] * 6 + [False]
    assert known_options(again.header, again.records) == old.options
    assert grown(again.header, _other(old, options), "s.h5") is again.header


def test_another_order_shows_the_same(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "s.h5", 30, 1, probed=True)
    options = store.header.options[::-1][:5]
    seen, records = seen_by(store.header, store.records, options)
    kept = (store.records.config > 0).all(axis=1)
    assert 0 < kept.sum() == len(records)
    names, before = (
        np.array(list(map(str, header.options)))[rows.config]
        for header, rows in ((seen, records), (store.header, store.records.select(kept)))
    )
    np.testing.assert_array_equal(names, before)
    layers = np.arange(len(seen.layers))
    for name, values in seen.responses.spaces.items():
        theirs = store.header.responses.spaces[name][layers, store.records.config[kept].astype(int)]
        np.testing.assert_array_equal(values[layers, records.config.astype(int)], theirs)
    with pytest.raises(ValueError, match="no option uaq-4g32"):
        seen_by(store.header, store.records, (NEW,))


def test_activation_options_grow_too(tmp_path: Path) -> None:
    header = synthetic_header(1)
    wide = grown(header, _other(header, header.options, activation_options=("16", "8")), "s.h5")
    responses = Responses({"latents": np.arange(7.0)[None, :, None].repeat(len(header.layers), 0)}, 4, 0)
    wide = dataclasses.replace(wide, responses=responses)
    more = grown(wide, _other(header, (NEW,), activation_options=("16", "6")), "s.h5")
    assert more.activation_options == ("16", "8", "6")
    assert more.columns[-3:] == ("uaq-4g32", "activations 8", "activations 6")
    first = more.responses.spaces["latents"][0, :, 0]
    np.testing.assert_array_equal(first, [0, 1, 2, 3, 4, 5, np.nan, 6, np.nan])
    places = Places.of(more, (NEW, header.options[1]), ("16", "6", "4"))
    assert places.options.tolist() == [6, 1]
    assert places.activations.tolist() == [0, 2, -1]
    assert places.columns.tolist() == [6, 1, 8, -1]


def test_counted_operations_are_taken_over() -> None:
    header = synthetic_header(1)
    counted = [dataclasses.replace(layer, macs=7 + number) for number, layer in enumerate(header.layers)]
    uncounted = dataclasses.replace(
        header, layers=[dataclasses.replace(layer, macs=0) for layer in header.layers]
    )
    known = dataclasses.replace(header, layers=counted)
    assert grown(uncounted, known, "s.h5").layers == counted
    assert grown(known, uncounted, "s.h5") is known


def test_other_codes_are_refused() -> None:
    header = synthetic_header(1)
    first = str(header.options[0])
    known = dataclasses.replace(header, conditions={"bank": {first: "0" * 32}})
    with pytest.raises(QsdError, match=rf"s\.h5: its codes of {first} are not those of the bank"):
        grown(known, _other(header, header.options), "s.h5")
    sizes = _other(header, header.options)
    sizes.num_bytes[0, 2] += 1
    with pytest.raises(QsdError, match=f"its codes of {header.options[2]} are not"):
        grown(header, sizes, "s.h5")
    with pytest.raises(QsdError, match="weight layers are not those of the bank"):
        grown(synthetic_header(2), _other(header, header.options), "s.h5")


def _basis(width: int) -> Basis:
    directions = np.eye(width, 8, dtype=np.int8).reshape(width, 4, 2)
    return Basis(directions, np.ones((width, 4), np.float32), np.ones(4, np.float32))


def test_responses_of_some_options_join_those_of_others(tmp_path: Path) -> None:
    """And bases survive writing, until the responses are measured anew."""
    header = synthetic_header(1)
    truth = synthetic_responses(header).spaces["latents"].astype(np.float32)
    width = truth.shape[2]
    basis = _basis(width)
    early = Responses({"latents": truth}, 4, 0, bases={"latents": basis})
    path = Store.create(tmp_path / "s.h5", dataclasses.replace(header, responses=early)).path
    np.testing.assert_array_equal(
        Store.open(path).header.responses.bases["latents"].directions, basis.directions
    )
    known = truth.copy()
    known[:, [1, 4]] = np.nan
    with Store.writing(path) as store:
        sketched = Responses({"latents": known.copy()}, 4, 0, sketched=True)
        store.rewrite(dataclasses.replace(store.header, responses=sketched))
        for layer in range(len(header.layers)):
            store.append_response(Response(layer, {"latents": truth[layer, [4, 1]]}, 4, 0, {}, (4, 1)))
    again = Store.open(path).header.responses
    np.testing.assert_array_equal(again.spaces["latents"], truth)
    assert again.bases == {}
    with Store.writing(path) as store, pytest.raises(QsdError, match="responses of other options"):
        store.append_response(Response(0, {"latents": truth[0, :1]}, 4, 0, {}, (9,)))


def test_a_damaged_basis_is_refused(tmp_path: Path) -> None:
    header = synthetic_header(1)
    truth = synthetic_responses(header).spaces["latents"]
    for part, values in (
        ("scale", np.ones((3, 4))),
        ("unit", -np.ones(4)),
        ("directions", np.zeros((2, 4, 2))),
    ):
        width = truth.shape[2]
        basis = _basis(width)
        basis = dataclasses.replace(basis, **{part: values})
        responses = Responses({"latents": truth}, 4, 0, bases={"latents": basis})
        with pytest.raises(QsdError, match=r"cannot be written .*options/bases/latents"):
            Store.create(tmp_path / "s.h5", dataclasses.replace(header, responses=responses))
