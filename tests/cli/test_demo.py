"""The whole road on the shipped miniature, shortened: every stage runs for real on little."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

from qsd.cli import main
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.search import Front
from qsd.store import Store
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml
from qsd.zoo.registry import RANKERS

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

    demo = tmp_path / "demo"
    summary = json.loads((demo / "summary.json").read_text())
    shipped = Store.open(find("datasets/digits-pixart-alpha.h5"))
    full, *others = summary["rows"]
    kinds = [row["kind"] for row in others]
    num_options = len(shipped.header.options)
    assert kinds == ["uniform"] * num_options + ["random"] * 2 + ["searched"] * 2
    assert full["psnr"] == 100.0 and full["avg_bits"] == 16
    four, three = others[-2:]
    for row, bits in ((four, 4.0), (three, 3.5)):
        assert row["avg_bits"] <= bits == pytest.approx(row["max_bits"], abs=1e-3)
        assert row["num_images"] == 30 and row["seeds"] == [1]
        assert {"bytes", "fid", "fid_std", "predicted", "best_rival", "best_rival_fid"} <= set(row)
    assert summary["max_abs_difference"] == 0.0
    file = demo / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert file.stat().st_size == summary["bytes"]
    for name in (
        "pareto.png",
        "grid.png",
        "report.html",
        "work/bank.safetensors",
        "work/ranker/metrics.json",
    ):
        assert (demo / name).stat().st_size > 0
    assert len(Store.open(demo / "work" / "store.h5").records) == len(shipped.records) + 1
    front = Front.load(demo / "work" / "front-3.50-bits.json")
    assert front.avg_bits.max() <= 3.5
    assert str(tmp_path) not in (demo / "summary.json").read_text()

    reloaded = DiffusionPipeline.from_pretrained(demo / "pipeline")
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


@pytest.mark.parametrize("name", sorted(RANKERS))
def test_on_takes_what_ships_with_a_miniature(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--out", "o", "--on", name, "--settings.extra_labels", "1", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)["settings"]
    assert find(settings["store"]).stem == name == Path(settings["pipeline"]).name
    assert settings["extra_labels"] == 1
    conditions = Store.open(find(settings["store"])).header.conditions
    for key in ("steps", "guidance", "height", "width", "max_sequence_length"):
        assert settings["evaluation"][key] == conditions[key]
    fit = read_yaml(find(settings["ranker"]))
    assert fit["data"]["stores"] == [settings["store"]]


def test_on_refuses_what_has_no_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "o", "--on", "digits-clip"]) == 2
    assert "digits-clip: no such labeled miniature; choose one of" in capsys.readouterr().err
