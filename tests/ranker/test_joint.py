"""Pairs of options: the table that they make, and what one activation option leaves as it was."""

import dataclasses

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_header

from qsd.quantizers.activations import ActivationOption, round_tokens
from qsd.ranker.features import OPTION_FEATURES, GraphFeatures
from qsd.ranker.joint import joint, nominal_error, pairs, unpaired, weight_options
from qsd.store import Header, Responses

ACTIVATIONS = ("16", "8", "4h")


@pytest.fixture(scope="module")
def header() -> Header:
    found = synthetic_header()
    layers, options = found.num_bytes.shape
    spaces = {"latents": np.random.default_rng(0).normal(size=(layers, options + 2, 5)).astype(np.float32)}
    return dataclasses.replace(found, activation_options=ACTIVATIONS, responses=Responses(spaces, 4, 0))


def test_pairs_come_apart_again(header: Header) -> None:
    rng = np.random.default_rng(1)
    configs = rng.integers(len(header.options), size=(9, len(header.layers))).astype(np.int8)
    activations = rng.integers(3, size=configs.shape).astype(np.int8)
    both = pairs(configs, activations, 3)
    assert both.max() < 3 * len(header.options)
    for one, other in zip(unpaired(both, 3), (configs, activations), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(pairs(configs, None, 1), configs)


def test_the_table_of_pairs_has_their_bytes_errors_and_changes(header: Header) -> None:
    table = joint(header)
    assert weight_options(table) == header.options
    for option in range(len(header.options)):
        for activation, text in enumerate(ACTIVATIONS):
            pair = option * 3 + activation
            assert table.options[pair] == header.options[option]
            assert np.array_equal(table.num_bytes[:, pair], header.num_bytes[:, option])
            own = nominal_error(ActivationOption.parse(text))
            assert np.allclose(table.relative_error[:, pair], np.hypot(header.relative_error[:, option], own))
            changes = header.responses.spaces["latents"]
            rounded = changes[:, len(header.options) + activation - 1] if activation else 0
            assert np.allclose(table.responses.spaces["latents"][:, pair], changes[:, option] + rounded)


def test_features_of_a_pair_are_those_of_both(header: Header) -> None:
    features = GraphFeatures.of(joint(header))
    alone = GraphFeatures.of(dataclasses.replace(header, activation_options=("16",), responses=None))
    bits = features.option[features.is_weight][..., OPTION_FEATURES.index("activation_bits")]
    assert torch.equal(bits, torch.tensor([1.0, 0.5, 0.25]).repeat(len(header.options)).expand_as(bits))
    rotated = features.option[features.is_weight][..., OPTION_FEATURES.index("activation_rotated")]
    assert torch.equal(rotated[0], torch.tensor([0.0, 0.0, 1.0]).repeat(len(header.options)))
    compression = OPTION_FEATURES.index("compression")
    assert torch.equal(features.option[:, ::3, compression], alone.option[:, :, compression])


def test_one_activation_option_changes_nothing(header: Header) -> None:
    alone = dataclasses.replace(header, activation_options=("16",))
    assert joint(alone) is alone


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_nominal_error_is_that_of_normal_tokens(bits: int) -> None:
    values = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    measured = float((round_tokens(values, bits) - values).norm() / values.norm())
    assert nominal_error(ActivationOption(bits)) == pytest.approx(measured, rel=0.15)
