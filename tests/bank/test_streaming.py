"""Banks straight from a pipeline's files, 16-bit pipelines, and text encoders that come and go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.tiny_pipelines import PAPER_PIPELINES, PROMPTS
from support.unseen_pipelines import UNSEEN_PIPELINES, wan22

import qsd
from qsd.api import write_bank
from qsd.bank import Applier, Bank
from qsd.cli import main
from qsd.configs.sampling import sample_configs
from qsd.denoisers import encoders
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.identity import identity, same_denoiser
from qsd.denoisers.source import open_source
from qsd.evaluation import embeddings
from qsd.evaluation.conditions import _ENCODINGS
from qsd.evaluation.generate import Generator
from qsd.labels.conditions import pipeline_components
from qsd.store import Store
from qsd.support.errors import QsdError

OPTIONS = ["uaq-4", "lloyd-3:f8"]
STREAMED = {
    **{name: PAPER_PIPELINES[name] for name in ("dit", "hunyuan", "sd15")},
    "flux": UNSEEN_PIPELINES["flux"],
    "wan22": wan22,
}


def check_equal(one: Bank, other: Bank) -> None:
    assert one.denoiser == other.denoiser
    assert one.layers == other.layers
    assert one.graph == other.graph
    assert one.option_hashes() == other.option_hashes()
    np.testing.assert_array_equal(one.relative_errors, other.relative_errors)


@pytest.mark.parametrize("family", STREAMED)
def test_files_give_the_bank_of_the_loaded_denoiser(family: str, tmp_path: Path) -> None:
    STREAMED[family]().save_pretrained(tmp_path / "pipeline")
    source = open_source(tmp_path / "pipeline")
    assert source.traced()[0].streamed or family == "wan22"  # whose first denoiser would have to be run
    streamed = write_bank(source, tmp_path / "bank.safetensors", OPTIONS)
    held = qsd.build_bank(qsd.load_pipeline(tmp_path / "pipeline"), OPTIONS)
    check_equal(streamed, held)
    held.save(tmp_path / "saved.safetensors")
    check_equal(Bank.load(tmp_path / "bank.safetensors"), Bank.load(tmp_path / "saved.safetensors"))


def test_shards_and_variants_are_read(tmp_path: Path) -> None:
    pipe = PAPER_PIPELINES["dit"]()
    pipe.save_pretrained(tmp_path / "plain")
    plain = open_source(tmp_path / "plain")
    pipe.save_pretrained(tmp_path / "shards", variant="fp16", max_shard_size="20KB")
    assert len(list((tmp_path / "shards" / "transformer").glob("*fp16-0*.safetensors"))) > 1
    shards = open_source(tmp_path / "shards")
    assert shards.streamed
    assert shards.identity == plain.identity
    loaded = qsd.load_pipeline(tmp_path / "shards")
    assert same_denoiser(qsd.build_bank(loaded, ["uaq-4"]).denoiser, plain.identity)


def test_a_damaged_shard_ends_in_one_line(tmp_path: Path) -> None:
    PAPER_PIPELINES["dit"]().save_pretrained(tmp_path / "p", max_shard_size="20KB")
    shard = sorted((tmp_path / "p" / "transformer").glob("*-00002-of*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(QsdError, match="cannot be opened as a diffusers pipeline"):
        open_source(tmp_path / "p")


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((name, torch.bfloat16) for name in PAPER_PIPELINES), ("sd15", torch.float16), ("dit", torch.float16)],
)
def test_16_bits_from_folder_to_export(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    PAPER_PIPELINES[family]().save_pretrained(tmp_path / "pipeline")
    pipe = qsd.load_pipeline(tmp_path / "pipeline", dtype=dtype)
    denoiser = denoiser_of(pipe)
    assert next(denoiser.parameters()).dtype == dtype
    assert pipe.vae.dtype == torch.float32
    bank = write_bank(open_source(tmp_path / "pipeline", dtype=dtype), tmp_path / "bank.safetensors", OPTIONS)
    assert same_denoiser(bank.denoiser, open_source(tmp_path / "pipeline").identity)
    if dtype == torch.bfloat16:
        check_equal(qsd.build_bank(pipe, OPTIONS), bank)
    config = sample_configs(bank.options, len(bank.layers), 1, seed=9, available=bank.available)[0]
    settings = _settings(tmp_path, family)
    with Applier(bank, denoiser) as applier:
        applier.apply(config)
        expected = _latents(pipe, settings)
    qsd.export(pipe, bank, config, tmp_path / "export")
    assert torch.equal(_latents(qsd.load_pipeline(tmp_path / "export", dtype=dtype), settings), expected)


@pytest.mark.parametrize("family", ["pixart_alpha", "hunyuan", "sdxl"])
def test_text_encoders_are_loaded_once(
    family: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = PAPER_PIPELINES[family]()
    pipe.save_pretrained(tmp_path / "pipeline")
    settings = _settings(tmp_path, family)
    whole = qsd.load_pipeline(tmp_path / "pipeline")
    expected, components = _latents(whole, settings), pipeline_components(whole)

    def opened() -> Any:
        return qsd.load_pipeline(tmp_path / "pipeline", encoders=False)

    first = opened()
    assert first.text_encoder is None
    assert pipeline_components(first) == components
    assert torch.equal(_latents(first, settings), expected)
    assert first.text_encoder is None

    def refuse(pipe: Any) -> None:
        raise AssertionError("a text encoder is loaded again")

    with monkeypatch.context() as patched:
        patched.setattr(encoders, "attach", refuse)
        patched.setattr(embeddings, "attach", refuse)
        again = opened()
        assert pipeline_components(again) == components
        assert torch.equal(_latents(again, settings), expected)

    for file in (own_cache / "embeddings").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(_latents(opened(), settings), expected)


def test_pipelines_that_draw_without_text_encoders_are_those_whose_prompts_are_encoded_once() -> None:
    assert set(encoders.ENCODED_ONCE) == set(_ENCODINGS)


def test_verbs_take_a_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PAPER_PIPELINES["pixart_alpha"]().save_pretrained(tmp_path / "p")
    settings = _settings(tmp_path, "pixart_alpha")
    pipeline = ["--pipeline", str(tmp_path / "p"), "--dtype", "bfloat16"]
    bank, store, out = (str(tmp_path / name) for name in ("b.safetensors", "s.h5", "out"))
    drawing = [f"--evaluation.{name}={getattr(settings, name)}" for name in ("prompts", "num_images", "steps",
               "guidance", "batch_size")]  # fmt: skip
    for words in (
        ["graph", *pipeline, "--json"],
        ["bank", *pipeline, "--out", bank, "--options", "[uaq-4, lloyd-3:f8]"],
        ["label", *pipeline, "--bank", bank, "--store", store, "--num-configs", "1", *drawing],
        ["export", *pipeline, "--bank", bank, "--config-file", "uaq-4", "--out", out],
    ):
        assert main(words) == 0, capsys.readouterr().err
    conditions = Store.open(store).header.conditions
    dtypes = {name: conditions["components"][name]["dtype"] for name in ("transformer", "text_encoder")}
    assert dtypes["transformer"] == "bfloat16"
    assert dtypes["text_encoder"].startswith("bfloat16")  # some transformers keep parts of T5 in float32
    with pytest.raises(SystemExit):
        main(["bank", *pipeline[:2], "--dtype", "int8", "--out", bank])


def test_single_file_checkpoints_lie_beside_the_configs_that_describe_them(tmp_path: Path) -> None:
    pipe = UNSEEN_PIPELINES["flux"]()
    pipe.save_pretrained(tmp_path / "p")
    save_file(pipe.transformer.state_dict(), tmp_path / "p" / "tuned.safetensors")
    (tmp_path / "p" / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    loaded = qsd.load_pipeline(tmp_path / "p" / "tuned.safetensors")
    assert identity(denoiser_of(loaded)) == identity(pipe.transformer)
    source = open_source(tmp_path / "p" / "tuned.safetensors")
    assert source.identity == identity(pipe.transformer)
    alone = tmp_path / "alone.safetensors"
    (tmp_path / "p" / "tuned.safetensors").rename(alone)
    with pytest.raises(QsdError, match=r"does not say what pipeline .*config=FOLDER"):
        qsd.load_pipeline(alone)
    again = qsd.load_pipeline(alone, config=tmp_path / "p", dtype=torch.bfloat16)
    assert again.transformer.dtype == torch.bfloat16


def _settings(folder: Path, family: str) -> qsd.EvaluationSettings:
    (folder / "prompts.txt").write_text("\n".join(["0", "1"] if family == "dit" else PROMPTS))
    return qsd.EvaluationSettings(
        prompts=str(folder / "prompts.txt"), num_images=2, steps=2, guidance=1.0, batch_size=2
    )


def _latents(pipe: Any, settings: qsd.EvaluationSettings) -> torch.Tensor:
    return torch.cat([latents for _, latents, _ in Generator(pipe, settings).batches(0)])
