import dataclasses

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_store

from qsd.ranker.data import StoreDataModule
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.ranker.universal import completing
from qsd.store import Store
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return synthetic_store(tmp_path_factory.mktemp("store") / "a.h5", 100, 1)


def test_folds_cover_train_and_validation_and_never_test(store):
    data = prepare(store, Target("-fid"), folds=4)
    is_test = torch.from_numpy(store.records.split == 2)
    held_out = torch.cat([data.validation_rows(member) for member in range(4)])
    assert sorted(held_out.tolist()) == (~is_test).nonzero().squeeze(1).tolist()
    for member in range(4):
        training = data.training_rows(member)
        assert not is_test[training].any()
        assert not set(training.tolist()) & set(data.validation_rows(member).tolist())
    assert data.test_rows().tolist() == is_test.nonzero().squeeze(1).tolist()


def test_one_fold_is_the_split_of_the_store(store):
    data = prepare(store, Target("-fid"), folds=1)
    assert data.training_rows(0).tolist() == np.flatnonzero(store.records.split == 0).tolist()
    assert data.validation_rows(0).tolist() == np.flatnonzero(store.records.split == 1).tolist()


def test_max_labels_keeps_all_test_records(store):
    data = prepare(store, Target("-fid"), folds=3, max_labels=25)
    assert len(data.known_rows()) == 25
    assert len(data.test_rows()) == (store.records.split == 2).sum()
    for row, config in zip(data.test_rows(), store.records.config[store.records.split == 2], strict=True):
        assert data.configs[row].tolist() == config.tolist()
    wanted = {tuple(config) for config in store.records.config[store.records.split != 2].tolist()}
    assert all(tuple(data.configs[row].tolist()) in wanted for row in data.known_rows())


def test_members_with_few_labels_validate_on_all_others(store):
    plain = prepare(store, Target("-fid"), folds=4)
    data = prepare(store, Target("-fid"), folds=4, member_labels=[10, 25])
    assert torch.equal(data.fold, plain.fold)
    for member in range(4):
        training, validation = data.training_rows(member), data.validation_rows(member)
        assert len(training) == (10, 25)[member % 2]
        assert sorted([*training.tolist(), *validation.tolist()]) == data.known_rows().tolist()
        assert set(plain.validation_rows(member).tolist()) <= set(validation.tolist())
    assert set(data.training_rows(0).tolist()) != set(data.training_rows(2).tolist())
    everything = prepare(store, Target("-fid"), folds=4, member_labels=[1000])
    assert torch.equal(everything.training_rows(1), plain.training_rows(1))
    with pytest.raises(QsdError, match="at least 2 labels"):
        StoreDataModule([str(store.path)], member_labels=[50, 1])


def test_the_order_of_labeling_does_not_matter(store):
    shuffled = np.random.default_rng(0).permutation(len(store.records))
    fields = {field: values[shuffled] for field, values in vars(store.records).items()}
    other = Store(store.path, store.header, type(store.records)(**fields))
    data, same = (prepare(each, Target("-fid"), folds=4, max_labels=60) for each in (store, other))
    for name in ("configs", "targets", "fold"):
        assert torch.equal(getattr(data, name), getattr(same, name))


def test_targets_follow_their_configs(store):
    records = store.records
    labels = records.labels.copy()
    labels[::7, 0] = np.nan
    holed = Store(store.path, store.header, dataclasses.replace(records, labels=labels))
    data = prepare(holed, Target("-fid"), [Target("clip")], folds=2)
    fid_of = {tuple(config): fid for config, fid in zip(records.config.tolist(), labels[:, 0], strict=True)}
    for config, target in zip(data.configs.tolist(), data.targets, strict=True):
        assert target[0].item() == pytest.approx(-fid_of[tuple(config)])
    assert len(data.configs) == np.isfinite(labels[:, 0]).sum()
    assert "records skipped" in data.message


def _relabeled(store, seed, split, factor, count=None):
    """The store and records of a split again under another noise seed, their labels times a factor."""
    first = (store.records.noise_seed == 0) & (store.records.split == split)
    again = store.records.select(np.flatnonzero(first)[:count])
    again = dataclasses.replace(
        again, noise_seed=np.full(len(again), seed, np.int64), labels=again.labels * factor
    )
    columns = {
        field.name: np.concatenate([getattr(store.records, field.name), getattr(again, field.name)])
        for field in dataclasses.fields(again)
    }
    return Store(store.path, store.header, type(again)(**columns))


def test_repeats_under_other_noise_seeds_are_kept_apart(store):
    plain = prepare(store, Target("-fid"), folds=3)
    repeated = _relabeled(_relabeled(store, 1, 2, 2.0, count=7), 5, 2, 3.0)
    data = prepare(repeated, Target("-fid"), folds=3)
    for name in ("configs", "targets", "fold"):
        assert torch.equal(getattr(data, name), getattr(plain, name))
    assert plain.repeats.shape == (0, len(plain.fold))
    test = data.test_rows()
    torch.testing.assert_close(data.repeats[0, test[:7]], 2 * data.targets[test[:7], 0])
    torch.testing.assert_close(data.repeats[1, test], 3 * data.targets[test, 0])
    assert data.repeats[0, test[7:]].isnan().all()
    assert data.repeats[:, data.known_rows()].isnan().all()


def test_repeats_of_training_records_teach_nothing(store):
    data = prepare(_relabeled(store, 1, 0, 2.0), Target("-fid"), folds=3)
    assert torch.equal(data.targets, prepare(store, Target("-fid"), folds=3).targets)
    assert data.repeats.isnan().all()


def test_an_epoch_shows_every_member_its_own_records_once(store):
    module = StoreDataModule([str(store.path)], folds=4, batch_size=15)
    module.setup()
    batches = list(module.train_dataloader())
    data = module.stores[0]
    for member in range(4):
        seen = torch.cat([batch.configs[member] for batch in batches]).tolist()
        allowed = data.configs[data.training_rows(member)].tolist()
        assert len({tuple(config) for config in seen}) == len(seen)
        assert all(config in allowed for config in seen)
        assert len(seen) > len(allowed) - len(batches)
    assert len({batch.configs.shape for batch in batches}) == 1
    assert len(batches) == len(module.train_dataloader())


def test_shuffling_depends_on_seed_and_epoch_only(store):
    def epoch(seed, number):
        module = StoreDataModule([str(store.path)], folds=2, seed=seed)
        module.setup()
        loader = module.train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat([batch.configs for batch in loader], dim=1).tolist()

    assert epoch(0, 3) == epoch(0, 3)
    assert epoch(0, 3) != epoch(0, 4)
    assert epoch(0, 3) != epoch(1, 3)


def test_batches_of_two_stores_never_mix(store, tmp_path):
    other = synthetic_store(tmp_path / "b.h5", 60, 2)
    module = StoreDataModule([str(store.path), str(other.path)], folds=2, batch_size=16)
    module.setup()
    widths = {batch.store: batch.configs.shape[-1] for batch in module.train_dataloader()}
    assert widths == {0: len(store.header.layers), 1: len(other.header.layers)}


def test_too_few_records(tmp_path):
    tiny = synthetic_store(tmp_path / "c.h5", 5, 1)
    with pytest.raises(QsdError, match=r"c\.h5: \d usable .* at least 2 are needed"):
        prepare(tiny, Target("-fid"))


def test_constant_training_labels(store):
    labels = store.records.labels.copy()
    labels[store.records.split != 2] = 5.0
    constant = Store(store.path, store.header, dataclasses.replace(store.records, labels=labels))
    with pytest.raises(QsdError, match="the same for all 80 training and validation records"):
        prepare(constant, Target("-fid"))


def test_bad_settings():
    with pytest.raises(QsdError, match="folds 0"):
        StoreDataModule(["a.h5"], folds=0)


def test_responses_count_once_all_layers_are_measured_or_expected(tmp_path, monkeypatch):
    store = synthetic_store(tmp_path / "a.h5", 60, 1, probed=True)
    assert prepare(store, Target("-fid")).responses is store.header.responses
    store.header.responses.spaces["latents"][3] = np.nan
    assert store.header.responses.missing().tolist() == [3]
    filled = prepare(store, Target("-fid"))
    assert not len(filled.responses.missing())
    assert "8 of 9 layers probed; of the others the ranker ranker-universal says" in filled.message
    monkeypatch.setattr(completing, "shipped_universal", lambda: None)
    assert prepare(store, Target("-fid")).responses is None
    assert prepare(synthetic_store(tmp_path / "b.h5", 60, 1), Target("-fid")).responses is None
