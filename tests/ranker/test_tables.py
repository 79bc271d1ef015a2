"""Rankers whose bank has other options than their labels: fewer, in another order, or never labeled."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr
from support.synthetic_store import synthetic_fid, synthetic_header, synthetic_responses, synthetic_store

from qsd.configs.sampling import sample_configs
from qsd.quantizers.options import Option
from qsd.ranker.checkpoint import Ranker, load_ranker, save_ranker
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.network import NetworkSettings
from qsd.ranker.posteriors import fit_posteriors
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.ranker.tasks import Known, make_task
from qsd.search.space import Space
from qsd.store import Header, Store
from qsd.support.errors import QsdError

INT8 = Option.parse("int8")
HALF = Option.parse("uaq-5")


def _wide() -> Header:
    """The synthetic denoiser with two more options, probed."""
    header = synthetic_header(2)
    more = np.stack([header.relative_error[:, 5] * 0.1, header.relative_error[:, 5] * 0.6], axis=1)
    sizes = np.array([[option.num_bytes(layer.shape) for option in (INT8, HALF)] for layer in header.layers])
    header = dataclasses.replace(
        header,
        options=(*header.options, INT8, HALF),
        num_bytes=np.concatenate([header.num_bytes, sizes], axis=1),
        relative_error=np.concatenate([header.relative_error, more], axis=1),
    )
    return dataclasses.replace(header, responses=synthetic_responses(header))


@pytest.fixture(scope="module")
def wide() -> Header:
    return _wide()


@pytest.fixture(scope="module")
def store(wide: Header, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Its records were labeled before the table grew."""
    old = synthetic_store(tmp_path_factory.mktemp("a") / "s.h5", 80, 2)
    with Store.writing(old.path) as writing:
        writing.rewrite(wide)
    return Store.open(old.path)


def _trained(store: Store, folder: Path) -> Ranker:
    data = prepare(store, Target("-log(fid)"), folds=2)
    save_ranker(
        *(folder, Ensemble(), [data.header], "-log(fid)", [fit_posteriors(Ensemble(), data)]),
        network=NetworkSettings(),
        unseen=[data.unseen],
    )
    return load_ranker(folder)


@pytest.fixture(scope="module")
def ranker(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    return _trained(store, tmp_path_factory.mktemp("ranker") / "ranker")


def _bank(header: Header, options: tuple[Option, ...]) -> SimpleNamespace:
    return SimpleNamespace(
        denoiser=header.denoiser, layers=header.layers, options=options, activation_options=("16",)
    )


def test_configs_of_options_without_a_label_are_ranked(wide: Header, ranker: Ranker) -> None:
    assert ranker.header.options == wide.options
    configs = sample_configs(wide.options, len(wide.layers), 60, 9)
    assert (configs >= 6).any(axis=1).mean() > 0.6
    truth = -np.log(synthetic_fid(wide, configs))
    assert spearmanr(ranker.posterior(configs).mean, truth)[0] > 0.95
    assert ranker.unseen == ("int8", "uaq-5")
    assert "no label has seen int8, uaq-5, which" in ranker.extrapolation(configs)
    assert ranker.extrapolation(configs.clip(max=5)) == ""


def test_a_bank_of_fewer_options_in_another_order(wide: Header, ranker: Ranker) -> None:
    options = (HALF, *wide.options[4:1:-1])
    bank = _bank(wide, options)
    ranker.check(bank, "bank.safetensors")
    over = ranker.over(options)
    configs = sample_configs(options, len(wide.layers), 20, 3)
    own = np.array([wide.options.index(option) for option in options])[configs].astype(np.int8)
    np.testing.assert_array_equal(over.posterior(configs).mean, ranker.posterior(own).mean)
    np.testing.assert_array_equal(over.header.num_bytes, wide.num_bytes[:, [7, 4, 3, 2]])
    assert ranker.over(wide.options) is ranker
    back = over.over(wide.options)
    np.testing.assert_array_equal(back.posterior(own).mean, ranker.posterior(own).mean)
    with pytest.raises(QsdError, match="do not fit"):
        over.posterior(np.full((1, len(wide.layers)), 4, np.int8))


def test_an_option_neither_labeled_nor_probed_is_refused(wide: Header, store: Store, tmp_path: Path) -> None:
    responses = store.header.responses
    spaces = {name: values.copy() for name, values in responses.spaces.items()}
    for values in spaces.values():
        values[2, 7] = np.nan
    header = dataclasses.replace(wide, responses=dataclasses.replace(responses, spaces=spaces))
    ranker = _trained(Store(store.path, header, store.records), tmp_path / "ranker")
    assert ranker.header.options == wide.options[:7]
    with pytest.raises(
        QsdError, match=r"b\.st: uaq-5 neither labeled nor probed in the store that the ranker"
    ):
        ranker.check(_bank(wide, wide.options), "b.st")
    ranker.check(_bank(wide, wide.options[:7]), "b.st")


def test_scores_of_options_that_no_label_or_probe_has_seen_are_refused(
    wide: Header, store: Store, tmp_path: Path
) -> None:
    space = Space.make(wide.num_bytes, wide.num_weights, wide.options)
    known = Known(_bank(wide, wide.options), None, store)
    with pytest.raises(QsdError, match=r"ridge: no label of .*s\.h5 to .* has int8, uaq-5; label"):
        make_task("knapsack", known, space, score="ridge")
    for name in ("length", "greedy"):
        make_task(name, known, space)
    unprobed = wide.responses.spaces["latents"].copy()
    unprobed[:, 7] = np.nan
    responses = dataclasses.replace(wide.responses, spaces={"latents": unprobed})
    half = Store(store.path, dataclasses.replace(wide, responses=responses), store.records)
    for name in ("length", "greedy"):
        with pytest.raises(QsdError, match=rf"{name}: .*s\.h5 is not probed in all layers of uaq-5; go on"):
            make_task(name, Known(_bank(wide, wide.options), None, half), space)
    sketched = dataclasses.replace(wide.responses, sketched=True, bases={})
    begun = Store(store.path, dataclasses.replace(wide, responses=sketched), store.records)
    with pytest.raises(QsdError, match=r"length: .* is not probed to the end; go on"):
        make_task("length", Known(_bank(wide, wide.options), None, begun), space)
    none = Store(store.path, wide, store.records.select(np.arange(0)))
    with pytest.raises(QsdError, match="labels of the bank's options alone"):
        make_task("knapsack", Known(_bank(wide, wide.options), None, none), space, score="ridge")


def test_labels_without_probes_are_said_to_go_without(store: Store, wide: Header) -> None:
    responses = store.header.responses
    spaces = {name: values.copy() for name, values in responses.spaces.items()}
    spaces["latents"][:, 1] = np.nan
    header = dataclasses.replace(wide, responses=dataclasses.replace(responses, spaces=spaces))
    data = prepare(Store(store.path, header, store.records), Target("-log(fid)"), folds=2)
    assert data.responses is None
    assert "uaq-4 labeled but not probed, so the ranker goes without probes" in data.message
