"""Layers that cannot take an option: what they have instead, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from support.options import SIX
from support.tiny import tiny_pixart

import qsd
from qsd.bank import Applier, Bank, build_bank, config_bytes
from qsd.bank.sizes import largest_bytes, smallest_bytes, uniform_configs
from qsd.configs.sampling import sample_configs
from qsd.quantizers import DEFAULT_OPTIONS, Option, parse_options
from qsd.quantizers.schemes.gguf_types import GgufType
from qsd.support.errors import QsdError

TABLE = parse_options(["uaq-4g32", "uaq-3", "hadamard+uaq-4", "keep"])


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), TABLE)


def test_each_layer_has_what_its_shape_takes(bank: Bank) -> None:
    expected = [[option.accepts(layer.shape) for option in TABLE] for layer in bank.layers]
    assert bank.available.tolist() == expected
    assert not bank.available.all() and bank.available.any(axis=0).all()
    assert (np.isnan(bank.relative_errors) == ~bank.available).all()
    for layer, row, sizes in zip(bank.layers, bank.weights, bank.num_bytes, strict=True):
        for option, weight, size in zip(TABLE, row, sizes, strict=True):
            assert size == (-1 if weight is None else option.num_bytes(layer.shape))


def test_a_saved_bank_has_the_same_mask(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.safetensors")
    again = Bank.load(tmp_path / "bank.safetensors")
    np.testing.assert_array_equal(again.num_bytes, bank.num_bytes)
    np.testing.assert_array_equal(again.relative_errors, bank.relative_errors)


def test_keep_has_its_true_cost(bank: Bank) -> None:
    assert bank.average_bits(bank.uniform_config("keep")) == 16


def test_uniform_configs_stay_near_their_option(bank: Bank) -> None:
    configs = uniform_configs(bank.num_bytes, bank.num_weights)
    for option, config in enumerate(configs):
        own = bank.available[:, option]
        assert (config[own] == option).all()
        assert bank.available[np.arange(len(config)), config].all()
    grouped = bank.uniform_config("uaq-4g32")
    lacking = ~bank.available[:, 0]
    spent = 8 * bank.num_bytes[np.arange(len(grouped)), grouped] / bank.num_weights
    assert (spent[lacking] >= 4 + 20 / 32).all()


def test_sampled_configs_are_available_and_unchanged_for_a_full_mask(bank: Bank) -> None:
    configs = sample_configs(TABLE, len(bank.layers), 50, seed=3, available=bank.available)
    assert (config_bytes(configs, bank.num_bytes) > 0).all()
    full = np.ones((9, len(SIX)), dtype=bool)
    np.testing.assert_array_equal(
        sample_configs(SIX, 9, 20, seed=4), sample_configs(SIX, 9, 20, seed=4, available=full)
    )


def test_extremes_by_hand() -> None:
    num_bytes = np.array([[-1, 5, 7], [4, -1, -1]])
    assert (smallest_bytes(num_bytes), largest_bytes(num_bytes)) == (9, 11)


def test_configs_without_a_size_are_refused(bank: Bank) -> None:
    layer = int(np.flatnonzero(~bank.available[:, 0])[0])
    config = bank.uniform_config("uaq-3")
    for wrong in (0, -1):
        config[layer] = wrong
        with pytest.raises(QsdError, match=rf"layer {layer} .* has no option or one that it cannot take"):
            bank.config_bytes(config)
    config[layer] = 0
    name = bank.layers[layer].name
    with (
        Applier(bank, tiny_pixart()) as applier,
        pytest.raises(QsdError, match=f"'{name}' cannot take uaq-4"),
    ):
        applier.apply(config)


def test_an_option_that_no_layer_can_take() -> None:
    with pytest.raises(QsdError, match=r"option uaq-4g512 fits none of the \d+ weight layers"):
        build_bank(tiny_pixart(), parse_options(["uaq-4", "uaq-4g512"]))


def test_a_layer_that_can_take_no_option() -> None:
    with pytest.raises(QsdError, match=r"layer '.*' of shape .* can take none of uaq-4g32; add .* or keep"):
        build_bank(tiny_pixart(), parse_options(["uaq-4g32"]))


def test_an_option_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GgufType, "missing", "pip install 'qsd[gguf]'")
    with pytest.raises(QsdError, match=r"option q4_0 needs a package .*: pip install 'qsd\[gguf\]'"):
        build_bank(tiny_pixart(), parse_options(["uaq-4", "q4_0"]))


@pytest.mark.parametrize("option", ["q8_0", "q4_1"])
def test_an_option_that_cannot_hold_the_values_of_a_layer(option: str) -> None:
    pytest.importorskip("libgguf")
    denoiser = tiny_pixart()
    wide = next(layer for layer in build_bank(denoiser, TABLE).layers if len(layer.shape) == 2)
    denoiser.get_submodule(wide.module).weight.data *= 1e9
    with pytest.raises(QsdError, match=rf"'{wide.name}': its values, up to .*e\+.*, are beyond .* {option};"):
        build_bank(denoiser, parse_options(["uaq-4", option]))
    assert np.isfinite(build_bank(denoiser, parse_options(["uaq-4", "int8", "keep"])).relative_errors).all()


def test_the_default_table_leaves_out_what_fits_no_layer() -> None:
    whole = qsd.build_bank(tiny_pixart()).options
    assert set(whole) <= set(DEFAULT_OPTIONS) and Option.parse("int8") in whole
    assert qsd.build_bank(tiny_pixart(), "paper").options == parse_options(["paper"])
