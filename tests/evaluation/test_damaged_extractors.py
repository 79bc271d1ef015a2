"""Damaged classifiers and CLIP models are refused in one line, whatever transformers raises."""

import shutil
from pathlib import Path

import pytest

from qsd.evaluation.extractors import ClassifierFeatures, clip_loader
from qsd.support.errors import QsdError
from qsd.support.paths import find


@pytest.mark.parametrize("kept", [4000, -100], ids=["header", "data"])
@pytest.mark.parametrize("name", ["digits-classifier", "digits-clip"])
def test_cut_weights_are_refused(name: str, kept: int, tmp_path: Path) -> None:
    folder = shutil.copytree(find(f"checkpoints/{name}"), tmp_path / name)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(QsdError, match=f"{name}: no (transformers image classifier|CLIP model)"):
        ClassifierFeatures(str(folder)) if "classifier" in name else clip_loader(str(folder))()
