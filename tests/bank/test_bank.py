"""The bank: exact sizes, measured errors, applying in place and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.options import SIX
from support.tiny import pixart_inputs, tiny_pixart

from qsd.bank import FULL_PRECISION, Applier, Bank, build_bank, layer_weight
from qsd.quantizers import Option
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), SIX)


def _output(denoiser: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return denoiser(**pixart_inputs(), return_dict=False)[0]


def test_every_weight_is_covered_once(bank: Bank) -> None:
    weights = [
        module.weight.numel()
        for module in tiny_pixart().modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    assert bank.num_weights.sum() == sum(weights)
    assert len(bank.layers) == len(weights)


def test_errors_are_of_what_is_applied(bank: Bank) -> None:
    denoiser = tiny_pixart()
    for index, layer in enumerate(bank.layers):
        weight = layer_weight(denoiser, layer).double()
        for option, quantized in enumerate(bank.weights[index]):
            error = (weight - quantized.dequantize(torch.float32).double()).norm() / weight.norm()
            assert bank.relative_errors[index, option] == pytest.approx(float(error), rel=1e-4, abs=1e-7)


def test_sizes_of_uniform_configs(bank: Bank) -> None:
    rows = sum(layer.shape[0] for layer in bank.layers)
    weights, layers = int(bank.num_weights.sum()), len(bank.layers)
    expected = {
        "uaq-4": weights // 2 + 4 * rows,
        "kmeans_c-4": weights // 2 + 2 * 16 * rows,
        "kmeans_a-4": weights // 2 + 2 * 16 * layers,
    }
    for option, size in expected.items():
        assert bank.config_bytes(bank.uniform_config(option)) == size
        assert bank.average_bits(bank.uniform_config(option)) == pytest.approx(8 * size / weights)


def test_applying_swaps_weights_and_restores_bit_for_bit(bank: Bank) -> None:
    denoiser = tiny_pixart()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    full = _output(denoiser)
    rng = np.random.default_rng(0)
    config = rng.integers(0, len(bank.options), len(bank.layers)).astype(np.int8)
    with Applier(bank, denoiser) as applier:
        applier.apply(config)
        for index, layer in enumerate(bank.layers):
            expected = bank.weights[index][config[index]].dequantize(torch.float32)
            assert torch.equal(layer_weight(denoiser, layer), expected)
        assert not torch.equal(_output(denoiser), full)
        first = _output(denoiser)
        applier.apply(bank.uniform_config("uaq-3"))
        applier.apply(config)
        assert torch.equal(_output(denoiser), first)
        config[3:] = FULL_PRECISION
        applier.apply(config)
        assert torch.equal(
            layer_weight(denoiser, bank.layers[5]), layer_weight(tiny_pixart(), bank.layers[5])
        )
    assert torch.equal(_output(denoiser), full)
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


def test_saved_and_loaded_bank_is_the_same(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.safetensors")
    again = Bank.load(tmp_path / "bank.safetensors")
    assert again.graph == bank.graph
    assert again.layers == bank.layers
    assert again.denoiser == bank.denoiser
    assert again.options_hash == bank.options_hash
    np.testing.assert_array_equal(again.num_bytes, bank.num_bytes)
    np.testing.assert_array_equal(again.relative_errors, bank.relative_errors)
    for mine, theirs in zip(bank.weights, again.weights, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.dequantize(torch.float32), b.dequantize(torch.float32))


def test_bad_files_are_named(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    with pytest.raises(QsdError, match=r"bank\.safetensors: no such bank"):
        Bank.load(path)
    bank.save(path)
    content = path.read_bytes()
    for size in (0, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(QsdError, match=r"bank\.safetensors: truncated or damaged"):
            Bank.load(path)


def test_another_denoiser_is_refused(bank: Bank) -> None:
    with pytest.raises(QsdError, match="made for PixArtTransformer2DModel with weights"):
        Applier(bank, tiny_pixart(seed=1))


def test_unknown_option_is_named(bank: Bank) -> None:
    with pytest.raises(QsdError, match="no option uaq-8"):
        bank.uniform_config(Option.parse("uaq-8"))


def test_nan_weight_names_the_layer() -> None:
    denoiser = tiny_pixart()
    denoiser.proj_out.weight.data[0, 0] = float("nan")
    with pytest.raises(QsdError, match="proj_out"):
        build_bank(denoiser, SIX)
