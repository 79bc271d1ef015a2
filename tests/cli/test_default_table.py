"""Every verb on the default table: all its options, each in some layer, from the bank to the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.tiny_pipelines import PROMPTS, random_denoiser, tiny_vae

from qsd.bank import Applier, Bank
from qsd.cli import main
from qsd.configs.document import config_to_json, save_config
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.export import load_export
from qsd.quantizers import DEFAULT_OPTIONS
from qsd.store import Store


def _pipeline(folder: Path) -> str:
    """A DiT whose layers can take every option."""
    import diffusers

    transformer = random_denoiser(
        "dit", num_attention_heads=4, attention_head_dim=16, num_embeds_ada_norm=len(PROMPTS)
    )
    names = dict(enumerate(PROMPTS))
    pipe = diffusers.DiTPipeline(
        transformer=transformer,
        vae=tiny_vae(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        id2label=names,
    )
    pipe.register_to_config(id2label=names)
    pipe.save_pretrained(folder)
    return str(folder)


def test_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = _pipeline(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]) + "\n")
    evaluation = {
        "prompts": str(tmp_path / "prompts.txt"),
        "num_images": 2,
        "steps": 2,
        "guidance": 1.0,
        "batch_size": 2,
    }
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"evaluation": evaluation}))
    names = (
        "bank.safetensors",
        "store.h5",
        "front",
        "mixed.json",
        "export",
        "tuned",
        "explain",
        "report.html",
    )
    bank, store, front, mixed, export, tuned, explained, page = (str(tmp_path / name) for name in names)

    def qsd(verb: str, *words: str) -> str:
        assert main([verb, *words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    shared = ("--config", str(settings), "--pipeline", pipeline)
    qsd("bank", "--pipeline", pipeline, "--out", bank)
    built = Bank.load(bank)
    assert built.options == DEFAULT_OPTIONS and built.available.any(axis=0).all()
    config = np.array([place % 10 if row[place % 10] else 9 for place, row in enumerate(built.available)])
    assert set(config) == set(range(10))
    texts = list(map(str, built.options))
    save_config(mixed, config_to_json(config, built.layer_names, texts, built.denoiser, built.options_hash))
    qsd("probe", *shared, "--bank", bank, "--store", store, "--num-images", "2")
    qsd("label", *shared, "--bank", bank, "--store", store, "--num-configs", "1")
    qsd("store", "migrate", store, "--bank", bank)
    assert len(Store.open(store).records) == 1
    search = ("--bank", bank, "--out", front, "--method", "length", "--max-bits", "4.5", "--store", store)
    quick = ("--settings.population", "16", "--settings.generations", "2", "--settings.improve_rounds", "1")
    qsd("search", *search, *quick, "--settings.additive_samples", "20", "--couple", "qkv")
    best = json.loads((tmp_path / "front" / "best.json").read_text())["layers"]
    for block in range(2):
        parts = (f"transformer_blocks.{block}.attn1.to_{part}" for part in "qkv")
        assert len({best[part] for part in parts}) == 1
    qsd("measure", *shared, "--bank", bank, "--configs", f"[{mixed}]", "--noise-seeds", "[1]", "--json")
    qsd("export", "--pipeline", pipeline, "--bank", bank, "--config-file", mixed, "--out", export)
    qsd("export", "--check", export)
    denoiser = denoiser_of(load_pipeline(pipeline))
    loaded = load_export(export)
    with Applier(built, denoiser) as applier, torch.no_grad():
        applier.apply(config)
        for name, module in denoiser.named_modules():
            if isinstance(module, torch.nn.Linear):
                inputs = torch.randn(2, module.in_features)
                assert torch.equal(module(inputs), loaded.get_submodule(name)(inputs)), name
    little = ("--settings.images", "2", "--settings.validation_images", "2", "--settings.epochs", "1")
    told = json.loads(qsd("finetune", export, *shared, "--out", tuned, *little, "--json"))
    assert told["loss_after"] <= told["loss_before"]
    qsd("explain", "--store", store, "--out", explained, "--plots", "false")
    qsd("report", front, "--out", page, "--store", store)
    assert "hadamard+lloyd-4g32:f8" in Path(page).read_text()
    qsd("bank", "--pipeline", pipeline, "--out", bank, "--drop", "[int8]", "--add", "[uaq-4]")
    changed = Bank.load(bank)
    assert [*map(str, changed.options)] == [*texts[:-1], "uaq-4"]
    qsd("store", "migrate", store, "--bank", bank)
    assert [*map(str, Store.open(store).header.options)] == [*texts, "uaq-4"]
    assert main(["search", *search, "--out", str(tmp_path / "grown")]) == 2
    assert "is not probed in all layers of uaq-4; go on" in " ".join(capsys.readouterr().err.split())
