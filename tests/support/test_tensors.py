"""Safetensors with hashes: lazily checked, whatever the dtype, readable by all that the umask lets read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from qsd.support.errors import QsdError
from qsd.support.hashing import verification
from qsd.support.tensor_writer import Planned, writing_tensors
from qsd.support.tensors import open_tensors, save_tensors, tensor_hash

META = {"format": "some", "version": 1, "note": "n"}
TENSORS = {
    "codes": torch.arange(7, dtype=torch.uint8),
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, META)
    return path


def test_tensors_come_back(path: Path) -> None:
    with open_tensors(path, {"some": 1}, "make it again") as file:
        assert file.meta["note"] == "n"
        assert set(file.names) == set(TENSORS)
        for name, tensor in TENSORS.items():
            assert torch.equal(file.tensor(name), tensor)
            assert file.tensor(name).dtype == tensor.dtype
        with pytest.raises(QsdError, match=r"x\.safetensors: has no tensor 'absent'; make it again"):
            file.tensor("absent")


def test_permissions_follow_the_umask(path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_hashes_tell_values_shapes_and_dtypes_apart() -> None:
    zeros = torch.zeros(4, dtype=torch.int32)
    others = [zeros.reshape(2, 2), zeros.to(torch.float32), torch.ones(4, dtype=torch.int32)]
    assert len({tensor_hash(tensor) for tensor in [zeros, *others]}) == 4
    assert tensor_hash(zeros) == tensor_hash(torch.zeros(8, dtype=torch.int32)[::2])


def test_a_changed_byte_is_noticed_when_its_tensor_is_read(path: Path) -> None:
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    content[8 + length + header["half"]["data_offsets"][0]] ^= 1
    path.write_bytes(content)
    with open_tensors(path, {"some": 1}, "make it again") as file:
        file.tensor("codes")
        with pytest.raises(QsdError, match=r"x\.safetensors: tensor 'half' differs from its hash"):
            file.tensor("half")
        with verification(False):
            file.tensor("half")


def test_a_changed_description_is_noticed(path: Path) -> None:
    with safe_open(path, "pt") as file:
        text = file.metadata()["qsd"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"qsd": text.replace('"note": "n"', '"note": "m"')})
    for since in (1, 2):  # a hash that is there counts, whatever version is written beside it
        with pytest.raises(QsdError, match="differs from the hash"), open_tensors(path, {"some": since}, "x"):
            pass
    save_file(tensors, path, metadata={"qsd": json.dumps(META)})
    with pytest.raises(QsdError), open_tensors(path, {"some": 1}, "x"):
        pass
    with open_tensors(path, {"some": 2}, "x") as file:  # a version from before there were hashes
        assert file.meta["note"] == "n"
    save_file(tensors, path, metadata={"qsd": json.dumps(META | {"version": 0})})
    with pytest.raises(QsdError, match="not a some; x"), open_tensors(path, {"some": 1}, "x"):
        pass


def test_other_files_are_named(tmp_path: Path, path: Path) -> None:
    with pytest.raises(QsdError, match="not a other"), open_tensors(path, {"other": 1}, "x"):
        pass
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(2)}, plain)
    with pytest.raises(QsdError, match="not a some; make it"), open_tensors(plain, {"some": 1}, "make it"):
        pass
    content = path.read_bytes()
    for size in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(QsdError, match="truncated or damaged"), open_tensors(path, {"some": 1}, "x"):
            pass


def test_a_file_written_piece_by_piece_is_the_one_written_at_once(tmp_path: Path) -> None:
    tensors = {
        "codes": torch.arange(7, dtype=torch.uint8),
        "scale": torch.randn(3, 1).bfloat16(),
        "small": torch.randn(5).to(torch.float8_e4m3fn),
        "errors": torch.randn(2, 2, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
    }
    planned = {
        name: Planned(
            tuple(tensor.shape), (torch.float16, torch.bfloat16) if name == "scale" else (tensor.dtype,)
        )
        for name, tensor in tensors.items()
    }
    meta = {"format": "thing", "version": 1, "note": "ü"}
    with writing_tensors(tmp_path / "pieces", planned, meta) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    noted = save_tensors(tmp_path / "whole", tensors, meta)
    with open_tensors(tmp_path / "pieces", {"thing": 1}, "write it again") as file:
        assert file.meta["hash"] == noted
        file.verify()
        for name, tensor in tensors.items():
            assert torch.equal(file.tensor(name).float(), tensor.float())
            assert torch.equal(file.mapped(name).float(), tensor.float())
    pieces = (tmp_path / "pieces", planned, meta)
    with pytest.raises(QsdError, match="'empty' was never written"), writing_tensors(*pieces) as writer:
        for name in ("codes", "small", "errors", "scale"):
            writer.write(name, tensors[name])
    with pytest.raises(QsdError, match=r"'codes' is torch"), writing_tensors(*pieces) as writer:
        writer.write("codes", tensors["scale"])
    with open_tensors(tmp_path / "pieces", {"thing": 1}, "write it again") as file:
        file.verify()  # what was there is there still
