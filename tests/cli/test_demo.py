"""The whole road on the shipped miniature, shortened: every stage runs for real on little."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from qsd.cli import main
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.search import Front
from qsd.store import Store
from qsd.support.paths import find

SHORT_FIT = """
trainer: {max_epochs: 2}
data: {target: -log(fid), folds: 2}
model: {network: {width: 16, depth: 2, heads: 2}}
"""


@pytest.mark.slow
def test_demo_runs_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.yaml").write_text(SHORT_FIT)
    words = ["demo", "--out", "demo", "--settings.ranker", "short.yaml", "--settings.extra_labels", "1"]
    words += ["--settings.verification_images", "30", "--settings.noise_seeds", "[1]"]
    words += ["--settings.search.generations", "3", "--settings.search.improve_rounds", "2"]
    assert main(words) == 0

    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert set(summary) >= {"full_precision", "uniform", "random_best", "searched", "export", "seconds"}
    assert len(summary["uniform"]) == 6
    assert [row["num_images"] for row in summary["searched"]] == [30, 30, 30]
    sizes = {row["name"]: row["bytes"] for row in summary["uniform"]}
    same_a, same_uaq, bits = summary["searched"]
    assert same_a["bytes"] <= sizes["kmeans_a-4:paper"]
    assert same_uaq["bytes"] <= sizes["uaq-4:paper"]
    assert bits["avg_bits"] <= bits["max_bits"] == 3.5
    for row in summary["searched"]:
        assert {"max_bits", "avg_bits", "bytes", "fid", "fid_std", "num_images", "seeds", "predicted"} <= set(
            row
        )
    assert summary["full_precision"]["psnr"] == 100.0

    exported = summary["export"]
    assert exported["max_abs_difference"] == 0.0
    file = tmp_path / exported["path"] / "transformer" / "diffusion_pytorch_model.safetensors"
    assert file.stat().st_size == exported["bytes"]
    for name in ("pareto.png", "grid.png", "bank.safetensors", "store.h5", "ranker/metrics.json"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    shipped = Store.open(find("datasets/digits-pixart-alpha.h5"))
    assert len(Store.open(tmp_path / "demo" / "store.h5").records) == len(shipped.records) + 1
    front = Front.load(tmp_path / "demo" / "front-3.50-bits.json")
    assert front.avg_bits.max() <= 3.5
    assert str(tmp_path) not in (tmp_path / "demo" / "summary.json").read_text().replace(exported["path"], "")

    reloaded = DiffusionPipeline.from_pretrained(tmp_path / "demo" / "export")
    settings = EvaluationSettings(
        prompts="datasets/digits/prompts.txt",
        reference="datasets/digits/images.safetensors",
        num_images=2,
        steps=2,
        guidance=1.0,
    )
    drawn = next(iter(Generator(reloaded, settings).batches(0)))[2]
    assert drawn.shape == (2, 3, 16, 16)
    assert drawn.dtype == torch.uint8
