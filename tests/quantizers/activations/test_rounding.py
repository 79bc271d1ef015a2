"""Rounding of activations against loops over numbers and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsd.quantizers.activations import (
    ActivationOption,
    Ranges,
    parse_activations,
    rotate,
    round_probabilities,
    round_tokens,
    rounding,
)
from qsd.support.errors import QsdError


def _by_loop(row: np.ndarray, bits: int) -> np.ndarray:
    """The nearest of 2^bits evenly spaced levels, one of which is 0 moved by whole steps."""
    low, high = row.min(), row.max()
    step = (high - low) / (2**bits - 1)
    first = np.round(low / step)
    levels = (first + np.arange(2**bits)) * step
    return np.array([levels[np.abs(levels - value).argmin()] for value in row])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_tokens_go_to_the_nearest_level_of_their_own_grid(bits: int) -> None:
    values = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(bits)) * torch.tensor(
        [[[1.0], [100.0], [0.01]]]
    )
    rounded = round_tokens(values, bits)
    for got, row in zip(rounded.reshape(-1, 40), values.reshape(-1, 40), strict=True):
        step = float(row.max() - row.min()) / (2**bits - 1)
        assert np.allclose(got.numpy(), _by_loop(row.double().numpy(), bits), atol=1e-4 * step)
        assert len(got.unique()) <= 2**bits


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e4, 1e4, width=32), st.integers(2, 8))
def test_a_token_of_one_value_stays_what_it_is(value: float, bits: int) -> None:
    values = torch.full((2, 7), value)
    assert torch.allclose(round_tokens(values, bits), values, rtol=0, atol=1e-37)


def test_probabilities_keep_zero_and_their_largest() -> None:
    scores = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0)) * 4
    probabilities = scores.softmax(-1)
    rounded = round_probabilities(probabilities)
    step = probabilities.amax(-1, keepdim=True) / 255
    assert ((rounded - probabilities).abs() <= 0.5001 * step).all()
    assert torch.allclose(rounded.amax(-1), probabilities.amax(-1))
    assert torch.equal(round_probabilities(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("channels", [1, 12, 64, 96, 256])
def test_rotation_keeps_lengths_undoes_itself_and_leaves_layers_alone(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    values = torch.randn(3, channels, generator=generator)
    weight = torch.randn(5, channels, generator=generator)
    assert torch.allclose(rotate(rotate(values)), values, atol=1e-5)
    assert torch.allclose(rotate(values).norm(dim=-1), values.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(rotate(values) @ rotate(weight).T, values @ weight.T, atol=1e-4)


def test_rotation_helps_where_one_channel_is_far_larger() -> None:
    values = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    values[:, 3] *= 50
    errors = {
        text: (rounding(ActivationOption.parse(text), None, "layer")(values) - values).square().mean()
        for text in ("4", "4h")
    }
    assert errors["4h"] < 0.5 * errors["4"]


def test_static_ranges_are_those_of_calibration_and_clip_the_rest() -> None:
    seen = torch.tensor([[-1.0, 2.0], [0.5, 3.0]])
    ranges = Ranges.of(seen, torch.ones(1, 2)).merged(Ranges.of(-seen, torch.ones(1, 2)))
    rounded = rounding(ActivationOption.parse("8t"), ranges, "layer")(torch.tensor([[-9.0, 0.0], [1.0, 9.0]]))
    step = 6 / 255
    assert torch.allclose(rounded, torch.tensor([[-3.0, 0.0], [1.0, 3.0]]), atol=step)
    assert rounded[0, 1] == 0


def test_smoothing_shares_outliers_between_input_and_weight() -> None:
    generator = torch.Generator().manual_seed(2)
    values, weight = torch.randn(30, 16, generator=generator), torch.randn(4, 16, generator=generator)
    values[:, 5] *= 40
    ranges = Ranges.of(values, weight)
    expected = (values.abs().amax(0) / weight.abs().amax(0)).sqrt()
    assert torch.allclose(ranges.smoothing(), expected)
    error = {
        text: (rounding(ActivationOption.parse(text), ranges, "layer")(values) - values)[:, :5].norm()
        for text in ("6", "6m")
    }
    assert error["6m"] < error["6"]


def test_ranges_of_a_grouped_convolution_have_its_own_weights() -> None:
    weight = torch.arange(1.0, 13.0).reshape(4, 1, 3)  # 4 channels in 4 groups, 3 taps
    assert Ranges.of(torch.randn(2, 4), weight).weight.tolist() == [3.0, 6.0, 9.0, 12.0]


@pytest.mark.parametrize("text", ["16", "8", "6h", "4m", "8t", "8ht", "8mt"])
def test_options_are_spelled_as_they_are_read(text: str) -> None:
    assert str(ActivationOption.parse(text)) == text


@pytest.mark.parametrize("text", ["", "9", "1", "16h", "8x", "h8", "8th", "eight", "-8"])
def test_unknown_options_are_refused(text: str) -> None:
    with pytest.raises(QsdError, match="unknown activation option"):
        ActivationOption.parse(text)


def test_tables_are_checked() -> None:
    assert [str(option) for option in parse_activations(["16", 8, "8h"])] == ["16", "8", "8h"]
    with pytest.raises(QsdError, match="'8' is named twice"):
        parse_activations(["8", "8"])
    with pytest.raises(QsdError, match="at least one"):
        parse_activations([])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("text", ["8", "8h", "8t"])
def test_inputs_that_are_no_numbers_are_refused(text: str, bad: float) -> None:
    ranges = Ranges.of(torch.randn(3, 4), torch.ones(1, 4))
    values = torch.randn(3, 4)
    values[1, 2] = bad
    with pytest.raises(QsdError, match=r"'block\.ff': its input holds NaN"):
        rounding(ActivationOption.parse(text), ranges, "block.ff")(values)


def test_options_that_need_images_say_so() -> None:
    with pytest.raises(QsdError, match="needs ranges"):
        rounding(ActivationOption.parse("8t"), None, "layer")
