"""Copies, state dicts and files of denoisers whose weights were edited or are cached: nothing is lost."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_model, save_model
from support.exported import exported, forward
from support.tiny import pixart_inputs
from torch import nn

from qsd import cache_weights
from qsd.runtime.layers import quantized_layers
from qsd.runtime.packed import Bits
from qsd.support.errors import QsdError

pytestmark = pytest.mark.filterwarnings("ignore:the weight of a quantized layer")
LAYER = "transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("pixart"))


def loaded(folder: Path) -> Any:
    return PixArtTransformer2DModel.from_pretrained(folder).eval()


def edited(folder: Path) -> Any:
    model = loaded(folder)
    with torch.no_grad():
        model.get_submodule(LAYER).weight.mul_(2)
    return model


def output(model: nn.Module) -> torch.Tensor:
    return forward(model, pixart_inputs())


def by_torch(model: Any, folder: Path) -> Any:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = loaded(folder)
    again.load_state_dict(torch.load(file, weights_only=True))
    return again


def by_safetensors(model: Any, folder: Path) -> Any:
    save_model(model, str(folder.parent / "model.safetensors"))
    again = loaded(folder)
    load_model(again, folder.parent / "model.safetensors")
    return again


def by_another_edited_one(model: Any, folder: Path) -> Any:
    again = loaded(folder)
    with torch.no_grad():
        for layer in quantized_layers(again).values():
            layer.weight.zero_()
    again.load_state_dict(model.state_dict())
    return again


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "torch.save": by_torch,
    "safetensors": by_safetensors,
    "into an edited one": by_another_edited_one,
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("make", [loaded, edited])
@pytest.mark.parametrize("way", WAYS)
def test_edits_go_along_and_are_the_copy_s_own(folder: Path, way: str, make: Callable[[Path], Any]) -> None:
    model = make(folder)
    expected = output(model)
    again = WAYS[way](model, folder)
    assert torch.equal(output(again), expected)
    with torch.no_grad():
        model.get_submodule(LAYER).weight.zero_()
    assert torch.equal(output(again), expected)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_saves_itself(folder: Path, tmp_path: Path, way: str) -> None:
    model = loaded(folder)
    again = WAYS[way](model, folder)
    with torch.no_grad():
        for layer in quantized_layers(again).values():
            for bits in layer.packed.parameters():
                bits.copy_(bits.flip(0))
        model.get_submodule(LAYER).weight.zero_()
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(output(loaded(tmp_path / "again")), output(again))
    again.get_submodule(LAYER).weight.zero_()
    with pytest.raises(QsdError, match=f"'{LAYER}' was edited"):
        again.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists(), "refused before anything is written"


def test_what_is_loaded_goes_before_the_cache(folder: Path) -> None:
    model, other = loaded(folder), loaded(folder)
    with torch.no_grad():
        for bits in other.get_submodule(LAYER).packed.parameters():
            bits.copy_(bits.flip(0))
    cache_weights(model)
    model.load_state_dict(other.state_dict())
    assert torch.equal(output(model), output(other))


@pytest.mark.parametrize("strict", [True, False])
def test_a_dense_checkpoint_counts(folder: Path, strict: bool) -> None:
    model, dense = loaded(folder), edited(folder).dequantize()
    with pytest.warns(UserWarning, match="edited in place"):
        assert not any(model.load_state_dict(dense.state_dict(), strict=strict))
    assert torch.equal(output(model), output(dense))
    with pytest.raises(QsdError, match="cannot become"):
        model.load_state_dict({f"{LAYER}.weight": torch.ones(3, 3)}, strict=False)


def test_assigned_codes_stay_what_is_never_trained(folder: Path) -> None:
    model = loaded(folder)
    expected = output(model)
    model.load_state_dict(loaded(folder).state_dict(), assign=True)
    assert torch.equal(output(model), expected)
    assert all(isinstance(bits, Bits) for bits in model.get_submodule(LAYER).packed.parameters())
    model.requires_grad_(True)
