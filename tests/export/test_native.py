"""The native format: shards, hashes, variants, hubs; nothing damaged or foreign is taken for an export."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from support.exported import OPTIONS, exported, forward, mixed
from support.tiny import pixart_inputs, tiny_pixart

from qsd.bank import build_bank
from qsd.cli import main
from qsd.export import check_export, load_export, push_to_hub
from qsd.export.write import export
from qsd.quantizers import parse_options
from qsd.support.errors import QsdError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("export"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def sharded(out: Path, **settings: Any) -> Path:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(OPTIONS))
    return export(denoiser, bank, mixed(bank), out, max_shard_size=6000, **settings).path


def test_shards_have_an_index_and_load_alike(original: Path, tmp_path: Path) -> None:
    path = sharded(tmp_path / "out")
    files = sorted(path.glob("*.safetensors"))
    assert len(files) > 2 and not (path / WEIGHTS).exists()
    assert (path / f"{WEIGHTS}.index.json").is_file()
    expected = forward(load_export(original), pixart_inputs())
    assert torch.equal(forward(load_export(path, verify=True), pixart_inputs()), expected)
    assert torch.equal(forward(PixArtTransformer2DModel.from_pretrained(path), pixart_inputs()), expected)
    assert check_export(tmp_path / "out")[0].files == len(files)
    files[1].unlink()
    with pytest.raises(QsdError, match="missing"):
        load_export(path)


@pytest.mark.parametrize("change", ["left out", "elsewhere"])
def test_an_index_that_is_not_of_the_shards(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = sharded(tmp_path / "out") / f"{WEIGHTS}.index.json"
    document = json.loads(index.read_text())
    places = document["weight_map"]
    name = next(iter(places))
    other = next(file for file in places.values() if file != places[name])
    document["weight_map"] = {key: file for key, file in places.items() if key != name} | (
        {name: other} if change == "elsewhere" else {}
    )
    index.write_text(json.dumps(document))
    with pytest.raises(QsdError, match=f"index.*'{name}'"):
        load_export(tmp_path / "out")
    assert main(["export", "--check", str(tmp_path / "out")]) == 2
    assert str(index) in capsys.readouterr().err


def test_what_diffusers_opens_is_what_is_checked(original: Path, tmp_path: Path) -> None:
    """A file of all tensors beside an index: diffusers follows the index."""
    path = sharded(tmp_path / "out")
    shutil.copy(original / WEIGHTS, path / WEIGHTS)
    shard = sorted(path.glob("*-of-*.safetensors"))[1]
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    for read in (load_export, check_export):
        with pytest.raises(QsdError, match=f"{shard.name}: .* differs from its hash"):
            read(path)


def test_a_missing_index_and_a_damaged_config_are_named(tmp_path: Path) -> None:
    path = sharded(tmp_path / "out")
    (path / f"{WEIGHTS}.index.json").unlink()
    with pytest.raises(QsdError, match=r"index\.json: is missing; copy all files"):
        load_export(path)
    (path / "config.json").write_text("{")
    for folder in (path, path.parent):
        with pytest.raises(QsdError, match=r"transformer/config\.json: .*export it again"):
            check_export(folder)


@pytest.mark.parametrize("max_shard_size", ["5GB", 6000])
def test_variants(original: Path, tmp_path: Path, max_shard_size: Any) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(OPTIONS))
    settings = {"variant": "w4", "max_shard_size": max_shard_size}
    path = export(denoiser, bank, mixed(bank), tmp_path, **settings).path
    expected = forward(load_export(original), pixart_inputs())
    assert torch.equal(forward(load_export(tmp_path, variant="w4", verify=True), pixart_inputs()), expected)
    loaded = PixArtTransformer2DModel.from_pretrained(tmp_path, subfolder=path.name, variant="w4")
    assert torch.equal(forward(loaded, pixart_inputs()), expected)
    with pytest.raises(QsdError, match=f"{WEIGHTS}: is missing; name the variant of .*w4"):
        load_export(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "../up"}, "variant '../up'"),
        ({"max_shard_size": "much"}, "max_shard_size 'much'"),
        ({"max_shard_size": 0}, "max_shard_size 0"),
        ({"max_shard_size": -1}, "max_shard_size -1"),
        ({"max_shard_size": "-1GB"}, "max_shard_size '-1GB'"),
        ({"max_shard_size": None}, "max_shard_size None"),
        ({"variant": "w4", "format": "gguf"}, "format gguf: writes one file"),
        ({"max_shard_size": "1MB", "format": "comfy"}, "format comfy: writes one file"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(["keep"]))
    with pytest.raises(QsdError, match=said):
        export(denoiser, bank, bank.uniform_config("keep"), tmp_path / "out", **settings)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("more", [["--out", "elsewhere"], ["--format", "gguf"], ["--overwrite"]])
def test_a_check_is_given_alone(folder: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--check", str(folder), *more]) == 2
    assert "give it alone" in capsys.readouterr().err


def test_exports_for_other_programs_are_named_so(tmp_path: Path) -> None:
    denoiser = tiny_pixart()
    bank = build_bank(denoiser, parse_options(["keep"]))
    path = export(denoiser, bank, bank.uniform_config("keep"), tmp_path, format="comfy").path
    for place in (tmp_path, path):
        for reader in (load_export, check_export):
            with pytest.raises(QsdError, match="for other programs"):
                reader(place)


@pytest.mark.parametrize("name", [3, None, "AutoModel", "DDIMScheduler"])
def test_a_class_that_is_no_model(folder: Path, name: Any) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    del document["quantization_config"]["hash"]
    path.write_text(json.dumps(document | {"_class_name": name}))
    with pytest.raises(QsdError, match="has no class"):
        load_export(folder)


def test_a_dtype_that_nothing_computes_in(folder: Path) -> None:
    with pytest.raises(QsdError, match=r"dtype torch\.int8"):
        load_export(folder, dtype=torch.int8)


def test_every_flipped_bit_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--check", str(folder)]) == 0
    assert "tensors" in capsys.readouterr().out
    file = folder / WEIGHTS
    intact = file.read_bytes()
    start = 8 + int.from_bytes(intact[:8], "little")
    for position in (start, (start + len(intact)) // 2, len(intact) - 1):
        damaged = bytearray(intact)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(QsdError, match="differs from its hash"):
            load_export(folder, verify=True)
        assert main(["export", "--check", str(folder)]) == 2
        assert str(file) in capsys.readouterr().err


def test_another_config_is_found(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    layers = document["quantization_config"]["layers"]
    name = next(name for name, option in layers.items() if option == "uaq-3")
    layers[name] = "uaq-3:paper"  # of the same sizes: nothing else could tell
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(QsdError, match=r"config\.json: differs from the hash"):
        load_export(folder, verify=True)


def test_files_without_hashes_say_so(folder: Path, tmp_path: Path) -> None:
    load_export(folder).save_pretrained(tmp_path / "again")
    load_export(tmp_path / "again")
    with pytest.raises(QsdError, match="carries no hashes"):
        check_export(tmp_path / "again")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_tensors_too_few_or_too_many(folder: Path, change: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if name.endswith(".codes"))
    if change == "missing":
        del tensors[name]
    else:
        name = "nobody.weight"
        tensors[name] = torch.ones(2)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(QsdError, match=name):
        load_export(folder)
    with pytest.raises(QsdError, match=name):
        load_export(folder, verify=False)


def test_pickles_are_not_opened(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(QsdError, match=WEIGHTS):
        load_export(folder)


def test_a_downloaded_repository_opens_by_its_name(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--someone--export"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(original, snapshot / "transformer")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    expected = forward(load_export(original), pixart_inputs())
    for settings in ({}, {"subfolder": "transformer"}):
        loaded = load_export("someone/export", local_files_only=True, **settings)
        assert torch.equal(forward(loaded, pixart_inputs()), expected)
    with pytest.raises(QsdError, match="no such repository"):
        load_export("someone/else", local_files_only=True)
    with pytest.raises(QsdError, match="no such folder"):
        load_export(str(tmp_path / "a" / "b" / "c" / "d"))


def test_pushing_uploads_the_folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "qsd.export.hub.HfApi.create_repo", lambda self, repo, **settings: calls.append(settings)
    )
    monkeypatch.setattr(
        "qsd.export.hub.HfApi.upload_folder", lambda self, **settings: calls.append(settings) or "address"
    )
    assert push_to_hub(original.parent, "someone/export") == "address"
    assert calls[0]["exist_ok"] and calls[1]["folder_path"] == original.parent
    with pytest.raises(QsdError, match="holds no denoiser"):
        push_to_hub(tmp_path, "someone/export")
