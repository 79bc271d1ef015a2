"""Exports that carry activation options: what is opened computes what the bank's applier computes."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from support.exported import OPTIONS, forward, mixed
from support.tiny import pixart_inputs, tiny_pixart
from support.tiny_pipelines import tiny_unet, unet_inputs
from torch import nn

from qsd.bank import ActivationTable, Applier, Bank, build_bank
from qsd.bank.activations import channel_axis
from qsd.bank.carried import hooks_of
from qsd.configs.schedule import Schedule
from qsd.export import check_export, load_export
from qsd.export.write import export
from qsd.quantizers import parse_options
from qsd.quantizers.activations import Ranges, parse_activations
from qsd.support.errors import QsdError
from qsd.support.hashing import json_hash

ROUNDED = parse_activations(["16", "8", "4", "8h", "4t", "8mt"])
TIMES = (900, 700, 500)


def _bank(denoiser: nn.Module) -> Bank:
    return build_bank(denoiser, parse_options(OPTIONS), activations=ROUNDED)


def _table(bank: Bank, denoiser: Any, inputs: dict[str, Any]) -> ActivationTable:
    """Ranges of one call."""
    ranges: dict[str, Ranges] = {}

    def watch(layer: Any) -> Any:
        segment = slice(*layer.segment) if layer.segment else slice(None)

        def hook(module: Any, args: Any) -> None:
            values = args[0].movedim(channel_axis(module), -1)[..., segment]
            ranges[layer.name] = Ranges.of(
                values, module.weight[:, segment] if layer.segment else module.weight
            )

        return hook

    handles = [
        denoiser.get_submodule(layer.module).register_forward_pre_hook(watch(layer)) for layer in bank.layers
    ]
    forward(denoiser, inputs)
    for handle in handles:
        handle.remove()
    return ActivationTable(ROUNDED, ranges)


def _vectors(bank: Bank, groups: int) -> np.ndarray:
    drawn = np.random.default_rng(3).integers(len(ROUNDED), size=(groups, len(bank.layers)))
    return np.where(bank.macs > 0, drawn, 0).astype(np.int8)


def _at(time: int) -> dict[str, Any]:
    return pixart_inputs() | {"timestep": torch.tensor([time, time])}


def _drawn(denoiser: nn.Module) -> list[torch.Tensor]:
    return [forward(denoiser, _at(time)) for time in TIMES]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.Tensor], list[torch.Tensor]]:
    """An export with a schedule, what the applier draws by it, and what it draws without activations."""
    denoiser: Any = tiny_pixart()
    bank = _bank(denoiser)
    table = _table(bank, denoiser, pixart_inputs())
    schedule = Schedule(((0, 1), (1, 3)), _vectors(bank, 2))
    out = tmp_path_factory.mktemp("carried") / "out"
    result = export(denoiser, bank, mixed(bank), out, activations=schedule, activation_table=table)
    assert result.activations
    with Applier(bank, denoiser, table) as applier:
        applier.apply(mixed(bank), schedule)
        rounded = _drawn(denoiser)
        applier.apply(mixed(bank))
        plain = _drawn(denoiser)
    return result.path, rounded, plain


def test_a_schedule_is_carried_bit_for_bit(made: Any, tmp_path: Path) -> None:
    folder, rounded, plain = made
    model = load_export(folder)
    for denoiser in (model, PixArtTransformer2DModel.from_pretrained(folder), copy.deepcopy(model)):
        for _ in range(2):
            assert all(map(torch.equal, _drawn(denoiser), rounded))
    assert not torch.equal(rounded[0], plain[0])
    _drawn(copy.deepcopy(model))[0]
    assert all(map(torch.equal, _drawn(model), rounded))  # a copy counts steps of its own
    model.save_pretrained(tmp_path / "again")
    assert all(
        map(torch.equal, _drawn(PixArtTransformer2DModel.from_pretrained(tmp_path / "again")), rounded)
    )
    check = check_export(folder)[0]
    assert check.tensors > len(plain)
    dense = model.dequantize()
    assert hooks_of(dense) is None and not any("activation_ranges" in name for name in dense.state_dict())
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(_drawn(dense), plain, strict=True))


def test_the_card_and_the_manifest_say_it(made: Any) -> None:
    folder, *_ = made
    card = (folder.parent / "README.md").read_text()
    assert "## Activations" in card and "in simulation" in card and "1 to 2" in card
    entry = json.loads((folder / "config.json").read_text())["quantization_config"]["activations"]
    assert entry["simulated"] is True and [group["steps"] for group in entry["groups"]] == [[0, 1], [1, 3]]


def test_segments_and_half_precision(tmp_path: Path) -> None:
    denoiser: Any = tiny_unet()
    bank = _bank(denoiser)
    assert any(layer.segment for layer in bank.layers)
    table = _table(bank, denoiser, unet_inputs())
    vector = _vectors(bank, 1)[0]
    path = export(denoiser, bank, mixed(bank), tmp_path, activations=vector, activation_table=table).path
    for dtype in (torch.float32, torch.bfloat16):
        other: Any = tiny_unet().to(dtype)
        with Applier(bank, other, table) as applier:
            applier.apply(mixed(bank), vector)
            expected = forward(other, unet_inputs(), dtype)
        assert torch.equal(forward(load_export(path, dtype=dtype), unet_inputs(), dtype), expected)


def test_rotated_weights_are_not_taken_for_attention_products(tmp_path: Path) -> None:
    denoiser: Any = tiny_pixart()
    bank = build_bank(denoiser, parse_options(["uaq-8", "hadamard+lloyd-4"]), activations=ROUNDED[:4])
    config = np.where(bank.available[:, 1], 1, 0).astype(np.int8)
    vector = np.where(bank.macs > 0, 1, 0).astype(np.int8)
    path = export(denoiser, bank, config, tmp_path, activations=vector).path
    with Applier(bank, denoiser, ActivationTable(ROUNDED[:4])) as applier:
        applier.apply(config, vector)
        expected = forward(denoiser, pixart_inputs())
    assert torch.equal(forward(load_export(path), pixart_inputs()), expected)


def _edit(folder: Path, change: Any) -> None:
    document = json.loads((folder / "config.json").read_text())
    entry = document["quantization_config"]
    entry.pop("hash")
    change(entry["activations"])
    entry["hash"] = json_hash(document)
    (folder / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry["groups"].pop(0), "steps 0 to 0 have no options"),
        (lambda entry: entry["groups"][1].update(steps=[0, 3]), "in two ranges"),
        (lambda entry: entry["groups"][0].update(steps=None), "do not fit"),
        (lambda entry: entry["groups"][0]["options"].popitem(), "has no option"),
        (lambda entry: entry["groups"][0]["options"].update(proj_out="9"), "unknown activation option"),
        (lambda entry: entry["layers"].update(nowhere={}), "nowhere"),
        (lambda entry: entry.update(simulated=False), "simulated"),
    ],
)
def test_what_does_not_fit_is_refused(made: Any, tmp_path: Path, change: Any, message: str) -> None:
    import shutil

    folder = Path(shutil.copytree(made[0], tmp_path / "copy"))
    _edit(folder, change)
    with pytest.raises(QsdError, match=message) as caught:
        load_export(folder)
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_what_cannot_be_carried_is_refused(tmp_path: Path) -> None:
    denoiser: Any = tiny_pixart()
    bank = _bank(denoiser)
    static = np.where(bank.macs > 0, 4, 0).astype(np.int8)
    with pytest.raises(QsdError, match="needs ranges"):
        export(denoiser, bank, mixed(bank), tmp_path / "out", activations=static)
    with pytest.raises(QsdError, match="recipe: cannot say how activations"):
        export(denoiser, bank, mixed(bank), tmp_path / "out", activations=static, format="recipe")
    with pytest.raises(QsdError, match="made for this denoiser"):
        export(denoiser, bank, mixed(bank), tmp_path / "out", activations=static[:-1])
    assert not (tmp_path / "out").exists()
    zeros = np.zeros_like(static)
    assert not export(denoiser, bank, mixed(bank), tmp_path / "out", activations=zeros).activations
