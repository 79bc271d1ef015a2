"""Export and reload of what is wrong: one line that names the file and the remedy, nothing overwritten."""

import errno
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from support.tiny import tiny_pixart
from support.tiny_pipelines import tiny_pipeline, tiny_unet
from torch import nn

from qsd.bank import FULL_PRECISION, Bank, build_bank
from qsd.configs.document import config_from_json, config_to_json
from qsd.export import export, load_export
from qsd.quantizers import Option
from qsd.runtime import register
from qsd.support.errors import QsdError

OPTIONS = (Option.parse("uaq-4"), Option.parse("kmeans_c-3"))
WEIGHTS = "diffusion_pytorch_model.safetensors"
register()


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(tiny_pixart(), OPTIONS)


@pytest.fixture
def exported(bank: Bank, tmp_path: Path) -> Path:
    return export(tiny_pixart(), bank, bank.uniform_config("uaq-4"), tmp_path / "out").path


def refuses(call: Any, *words: str) -> None:
    with pytest.raises(QsdError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    entries = document["quantization_config"]
    for key, value in changes.items():
        entries[key] = entries[key] | value if isinstance(entries.get(key), dict) else value
    for name in ("hash", "hashes"):  # as by hand, or by a program that knows no hashes
        document["quantization_config"].pop(name, None)
    path.write_text(json.dumps(document))


def test_a_bank_of_another_denoiser(bank: Bank, tmp_path: Path) -> None:
    config = bank.uniform_config("uaq-4")
    refuses(lambda: export(tiny_pixart(seed=1), bank, config, tmp_path / "out"), "bank")
    assert not (tmp_path / "out").exists()


def test_a_config_of_another_denoiser_or_with_an_unknown_layer(bank: Bank) -> None:
    names, options = bank.layer_names, [str(option) for option in bank.options]
    document = config_to_json(bank.uniform_config("uaq-4"), names, options, bank.denoiser, bank.options_hash)
    other = document | {"denoiser": bank.denoiser | {"weights_hash": "0" * 32}}
    refuses(lambda: config_from_json(other, names, options, bank.denoiser, "front.json"), "front.json")
    unknown = document | {"layers": document["layers"] | {"no.such.layer": "uaq-4"}}
    refuses(
        lambda: config_from_json(unknown, names, options, bank.denoiser, "c.json"), "c.json", "no.such.layer"
    )


@pytest.mark.parametrize(
    "config",
    [np.zeros(3, np.int8), np.full(0, 1), "too large", "too small"],
    ids=["short", "empty", "+", "-"],
)
def test_a_config_that_does_not_fit(bank: Bank, tmp_path: Path, config: Any) -> None:
    if isinstance(config, str):
        config = np.full(len(bank.layers), 2 if config == "too large" else -2)
    refuses(lambda: export(tiny_pixart(), bank, config, tmp_path / "out"), "config")
    assert not (tmp_path / "out").exists()


def test_a_half_quantized_weight(tmp_path: Path) -> None:
    unet = tiny_unet()
    bank = build_bank(unet, OPTIONS)
    config = bank.uniform_config("uaq-4")
    config[next(index for index, layer in enumerate(bank.layers) if layer.segment)] = FULL_PRECISION
    refuses(lambda: export(unet, bank, config, tmp_path / "out"), "segments")


def test_a_layer_class_that_computes_otherwise(tmp_path: Path) -> None:
    class Doubling(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    denoiser = tiny_pixart()
    denoiser.proj_out.__class__ = Doubling
    bank = build_bank(denoiser, OPTIONS)
    config = bank.uniform_config("uaq-4")
    refuses(lambda: export(denoiser, bank, config, tmp_path / "out"), "proj_out", "Doubling")


def test_other_files_are_never_overwritten(bank: Bank, tmp_path: Path) -> None:
    config = bank.uniform_config("uaq-4")
    (tmp_path / "notes.txt").write_text("mine")
    refuses(lambda: export(tiny_pixart(), bank, config, tmp_path), str(tmp_path), "notes.txt")
    refuses(lambda: export(tiny_pixart(), bank, config, tmp_path / "notes.txt"), "notes.txt")
    tiny_pixart().save_pretrained(tmp_path / "full" / "transformer")
    refuses(lambda: export(tiny_pixart(), bank, config, tmp_path / "full"), "full")
    export(tiny_pixart(), bank, config, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refuses(lambda: export(tiny_pixart(), bank, config, tmp_path / "out"), "notes.txt")
    assert (tmp_path / "out" / "notes.txt").read_text() == (tmp_path / "notes.txt").read_text() == "mine"


def test_an_earlier_export_is_replaced_as_a_whole(bank: Bank, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(tiny_pipeline(), bank, bank.uniform_config("uaq-4"), out)
    export(tiny_pixart(), bank, bank.uniform_config("kmeans_c-3"), out)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "transformer"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no temporary folder is left"


def test_a_failing_export_leaves_the_earlier_one(
    bank: Bank, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(import_module("qsd.export.shards"), "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        export(tiny_pixart(), bank, bank.uniform_config("kmeans_c-3"), exported.parent)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in exported.parent.parent.iterdir()] == ["out"]


def test_a_truncated_file(exported: Path) -> None:
    file = exported / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    refuses(lambda: load_export(exported.parent), str(file), "truncated")
    with pytest.raises(OSError, match=WEIGHTS):
        PixArtTransformer2DModel.from_pretrained(exported)


def test_missing_files(exported: Path, tmp_path: Path) -> None:
    (exported / WEIGHTS).unlink()
    refuses(lambda: load_export(exported), str(exported), "export")
    refuses(lambda: load_export(tmp_path / "nowhere"), "nowhere", "qsd export")
    tiny_pixart().save_pretrained(tmp_path / "full")
    refuses(lambda: load_export(tmp_path / "full"), "full", "no denoiser exported by qsd")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, ("version 2", "reads version 1")),
        ({"colour": "blue"}, ("quantization_config", "colour")),
        ({"segments": {"proj_out": [[0, 8], [8, 16]]}}, ("proj_out[0:8]",)),
        ({"layers": {"no.such.layer": "uaq-4"}}, ("no.such.layer",)),
        ({"layers": {"proj_out": "uaq-99"}}, ("uaq-99",)),
        ({"layers": {"proj_out": "uaq-3"}}, ("proj_out.packed.0.codes", "config.json")),
    ],
)
def test_a_manifest_that_does_not_fit(
    exported: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    edit(exported, **changes)
    refuses(lambda: load_export(exported), str(exported), *words)
    refuses(lambda: PixArtTransformer2DModel.from_pretrained(exported), *words)


def test_missing_and_mistyped_tensors(exported: Path) -> None:
    tensors = load_file(exported / WEIGHTS)
    scale = tensors.pop("proj_out.packed.0.scale")
    save_file(tensors, exported / WEIGHTS)
    refuses(lambda: load_export(exported), "proj_out.packed.0.scale", "missing")
    save_file(tensors | {"proj_out.packed.0.scale": scale.float()}, exported / WEIGHTS)
    refuses(lambda: load_export(exported), "proj_out", "scale")


def test_any_change_of_what_was_written_is_noticed(exported: Path) -> None:
    content = bytearray((exported / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (exported / WEIGHTS).write_bytes(content)
    refuses(lambda: load_export(exported), WEIGHTS, "differs from its hash")
    refuses(lambda: PixArtTransformer2DModel.from_pretrained(exported), "differs from its hash")
    content[-1] ^= 1
    (exported / WEIGHTS).write_bytes(content)
    load_export(exported)
    config = (exported / "config.json").read_text()
    (exported / "config.json").write_text(config.replace('"num_layers": ', '"num_layers": 1'))
    refuses(lambda: load_export(exported), "config.json", "differs from the hash")


def test_no_path_of_this_machine_is_written(bank: Bank, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "full")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "full")
    export(pipe, bank, bank.uniform_config("uaq-4"), tmp_path / "out")
    documents = list((tmp_path / "out").rglob("*.json"))
    assert len(documents) == 4
    for document in documents:
        text = document.read_text()
        assert str(tmp_path) not in text and "_name_or_path" not in text, document


def test_it_does_not_quantize_while_loading(exported: Path, tmp_path: Path) -> None:
    tiny_pixart().save_pretrained(tmp_path / "full")
    settings = PixArtTransformer2DModel.from_pretrained(exported).config.quantization_config
    refuses(
        lambda: PixArtTransformer2DModel.from_pretrained(tmp_path / "full", quantization_config=settings),
        "does not quantize while loading",
    )


def test_a_disk_that_fills_while_gguf_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy raises an OSError without a number there, which nobody would take for a full disk."""
    gguf = pytest.importorskip("gguf")
    bank = build_bank(tiny_pixart(), (Option.parse("keep"),))

    def full(self: Any) -> None:
        raise OSError("55296 requested and 16048 written")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="No space left"):
        export(tiny_pixart(), bank, bank.uniform_config("keep"), tmp_path / "out", format="gguf")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["qsd", "sdnq", "gguf", "comfy", "recipe"])
def test_a_full_disk_leaves_nothing_that_looks_complete(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file cannot be written: the earlier export stays as it was, and there is no new one."""
    bank = build_bank(tiny_pixart(), (Option.parse("keep"),))
    config = bank.uniform_config("keep")
    out = tmp_path / "out"
    settings: dict[str, Any] = {"format": format}
    export(tiny_pixart(), bank, config, out, **settings)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_arguments: Any, **_settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qsd.export.write.model_card", full)  # the last that is written
    for target in (out, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            export(tiny_pixart(), bank, config, target, **settings)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
