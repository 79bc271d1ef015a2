"""Offloading of a quantized denoiser by accelerate and diffusers: exact, or an error that says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from diffusers.hooks import apply_group_offloading
from support.exported import exported, forward
from support.tiny import pixart_inputs
from torch import nn

from qsd import cache_weights
from qsd.support.errors import QsdError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("pixart"))


def pixart(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    return PixArtTransformer2DModel.from_pretrained(folder, torch_dtype=dtype, **settings).eval()


def group_offload(model: nn.Module, folder: Path, **settings: Any) -> nn.Module:
    apply_group_offloading(model, onload_device=CPU, offload_device=CPU, **settings)
    return model


OFFLOADS: dict[str, Callable[[Any, Path], nn.Module]] = {
    "accelerate.cpu_offload": lambda model, _: accelerate.cpu_offload(model, execution_device=CPU),
    "accelerate.cpu_offload, buffers too": lambda model, _: accelerate.cpu_offload(
        model, execution_device=CPU, offload_buffers=True
    ),
    "accelerate.cpu_offload_with_hook": lambda model, _: accelerate.cpu_offload_with_hook(
        model, execution_device=CPU
    )[0],
    "accelerate.disk_offload": lambda model, path: accelerate.disk_offload(model, path, execution_device=CPU),
    "accelerate.dispatch_model": lambda model, path: accelerate.dispatch_model(
        model,
        {"": "cpu", "transformer_blocks.1": "disk"},
        main_device="cpu",
        offload_dir=path,
        force_hooks=True,
    ),
    "groups of blocks": lambda model, path: group_offload(
        model, path, offload_type="block_level", num_blocks_per_group=1
    ),
    "groups of leaves": lambda model, path: group_offload(model, path, offload_type="leaf_level"),
    "groups on disk": lambda model, path: group_offload(
        model, path, offload_type="block_level", num_blocks_per_group=1, offload_to_disk_path=str(path)
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OFFLOADS)
def test_offloading_is_exact(folder: Path, tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    expected = forward(pixart(folder, dtype), pixart_inputs(), dtype)
    offloaded = OFFLOADS[kind](pixart(folder, dtype), tmp_path)
    for _ in range(2):
        assert torch.equal(forward(offloaded, pixart_inputs(), dtype), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "device_map", [{"": "cpu"}, {"": "cpu", "transformer_blocks.0": "disk"}], ids=["cpu", "part on disk"]
)
def test_device_maps_are_exact(
    folder: Path, tmp_path: Path, device_map: dict[str, str], dtype: torch.dtype
) -> None:
    expected = forward(pixart(folder, dtype), pixart_inputs(), dtype)
    names = {name.partition(".")[0] for name in pixart(folder).state_dict()}
    spread = dict.fromkeys(names - {"transformer_blocks"}, device_map[""])
    for block in ("transformer_blocks.0", "transformer_blocks.1"):
        spread[block] = device_map.get(block, device_map[""])
    mapped = pixart(folder, dtype, device_map=spread, offload_folder=str(tmp_path))
    assert torch.equal(forward(mapped, pixart_inputs(), dtype), expected)


@pytest.mark.parametrize("kind", ["accelerate.cpu_offload", "accelerate.disk_offload", "groups on disk"])
def test_weights_that_are_elsewhere_are_not_saved(folder: Path, tmp_path: Path, kind: str) -> None:
    model = OFFLOADS[kind](pixart(folder), tmp_path / "away")
    for use in (lambda: model.save_pretrained(tmp_path / "saved"), model.dequantize):
        with pytest.raises(QsdError, match="offloaded"):
            use()
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("kind", OFFLOADS)
def test_a_cache_of_an_offloaded_model_is_exact_or_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    expected = forward(pixart(folder), pixart_inputs())
    model = OFFLOADS[kind](pixart(folder), tmp_path)
    if kind == "groups on disk":
        with pytest.raises(QsdError, match=r"cache_weights: .* offloaded"):
            cache_weights(model)
    else:
        assert cache_weights(model)
    assert torch.equal(forward(model, pixart_inputs()), expected)


@pytest.mark.parametrize("kind", ["groups of blocks", "groups of leaves"])
def test_a_model_moved_by_groups_is_not_dequantized(folder: Path, tmp_path: Path, kind: str) -> None:
    model = OFFLOADS[kind](pixart(folder), tmp_path)
    expected = forward(model, pixart_inputs())
    with pytest.raises(QsdError, match=r"dequantize: .* offloaded"):
        model.dequantize()
    assert torch.equal(forward(model, pixart_inputs()), expected)
    model.save_pretrained(tmp_path / "saved")  # its weights are here
    assert torch.equal(forward(pixart(tmp_path / "saved"), pixart_inputs()), expected)


def test_layerwise_casting_touches_only_what_is_not_packed(folder: Path) -> None:
    model = pixart(folder, torch.bfloat16)
    expected = forward(model, pixart_inputs(), torch.bfloat16)
    codes = {name: p.clone() for name, p in model.named_parameters() if ".packed." in name}
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    found = forward(model, pixart_inputs(), torch.bfloat16)
    assert found.isfinite().all() and (found - expected).abs().max() < 0.2  # biases have 8 bits now
    for name, parameter in model.named_parameters():
        if ".packed." in name:
            assert torch.equal(parameter, codes[name])
