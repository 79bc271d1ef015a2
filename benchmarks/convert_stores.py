"""Gives the shipped stores, labeled by an older qsd, the identities and conditions of today.

What the older qsd recorded is checked by its own rules first: the weights of the denoiser, and the bytes of
prompts, classes, real images, classifier and CLIP model. What it did not record (scheduler, autoencoder, text
encoders) is taken from the pipeline that ships beside the store; of the codes of the bank only sizes and
errors can be checked, so their hash stays unknown. ``provenance.converted`` says so in each store.

    python benchmarks/convert_stores.py
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qsd.bank import build_bank
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.identity import identity
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.content import settings_content
from qsd.labels.conditions import pipeline_components
from qsd.store import Store
from qsd.support.paths import find, shipped_root
from qsd.zoo.registry import MINIATURES

_NAMED = ("prompts", "reference", "classes", "features", "clip")


def old_weights_hash(denoiser: nn.Module) -> str:
    """How the older qsd hashed weights: shared ones once, what else the state holds not at all."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(denoiser.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def old_file_hash(path: Path) -> str:
    """How the older qsd hashed a file, or the weights in a folder."""
    digest = hashlib.blake2b(digest_size=8)
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def convert(path: Path, folder: Path) -> None:
    """Rewrites one store; refuses one that is not of the pipeline in the folder."""
    store = Store.open(path)
    if "components" in store.header.conditions:
        print(f"{path.name}: converted already")
        return
    recorded: dict[str, Any] = store.header.conditions
    pipe = load_pipeline(folder)
    denoiser = denoiser_of(pipe)
    assert store.header.denoiser["weights_hash"] == old_weights_hash(denoiser), f"{path}: another denoiser"
    for name in _NAMED:
        assert recorded[f"{name}_hash"] == old_file_hash(find(recorded[name])), f"{path}: other {name}"
    bank = build_bank(denoiser, store.header.options)
    np.testing.assert_array_equal(bank.num_bytes, store.header.num_bytes)
    np.testing.assert_allclose(bank.relative_errors, store.header.relative_error, rtol=1e-6)
    fields = {field.name for field in dataclasses.fields(EvaluationSettings)}
    settings = EvaluationSettings(**{key: value for key, value in recorded.items() if key in fields})
    conditions = {
        **settings_content(settings),
        "pipeline": type(pipe).__name__,
        "components": pipeline_components(pipe),
        "bank": None,
        "config_seed": recorded["config_seed"],
    }
    remark = "identities of an older qsd, checked by its rules; components from the pipeline; codes unknown"
    provenance = store.header.provenance | {"inputs": settings.paths(), "converted": remark}
    header = dataclasses.replace(
        store.header, denoiser=identity(denoiser), conditions=conditions, provenance=provenance
    )
    Store.create(path, header, store.records, replace=True)
    print(f"{path.name}: converted")


if __name__ == "__main__":
    for name in MINIATURES:
        convert(shipped_root() / "datasets" / f"{name}.h5", shipped_root() / "checkpoints" / name)
